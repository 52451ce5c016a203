# Jobs on Amazon Linux.
#
#   docker build --target ssh --tag ci-amazonlinux-ssh --file deploy/images/amazonlinux.Dockerfile deploy
#   docker build --target ecs-exec --tag ci-amazonlinux --file deploy/images/amazonlinux.Dockerfile deploy
#
# One of them is the image of ci-coordinator in a task definition; scripts of jobs run in it. Add the tools that your jobs need to
# the stage `job`. It needs BuildKit, which sets TARGETARCH.

# As your gitlab-runner's version (gitlab-runner --version).
ARG RUNNER_VERSION=18.11.3

FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:x86_64-v${RUNNER_VERSION} AS helper-amd64
FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:arm64-v${RUNNER_VERSION} AS helper-arm64
FROM helper-${TARGETARCH} AS helper

FROM amazonlinux:2023 AS job
# util-linux has setsid, which sessions of ECS Exec need.
RUN dnf install --assumeyes findutils git gzip tar util-linux \
    && dnf clean all
# One static program. Scripts call it gitlab-runner.
COPY --from=helper /usr/bin/gitlab-runner-helper /usr/bin/gitlab-runner-helper
RUN ln -s gitlab-runner-helper /usr/bin/gitlab-runner

# For ECS Exec.
FROM job AS ecs-exec
ENTRYPOINT ["sleep"]
CMD ["infinity"]

# For SSH. The package makes no host keys before its service starts. The entry point makes them.
FROM job AS ssh
RUN dnf install --assumeyes openssh-server \
    && dnf clean all \
    && rm -f /etc/ssh/ssh_host_*
COPY --chmod=755 ssh-entrypoint.sh /usr/local/bin/ssh-entrypoint.sh
EXPOSE 22
ENTRYPOINT ["/usr/local/bin/ssh-entrypoint.sh"]
