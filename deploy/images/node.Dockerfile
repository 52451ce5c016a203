# Jobs with Node.js.
#
#   docker build --target ssh --tag ci-node-ssh --file deploy/images/node.Dockerfile deploy
#   docker build --target ecs-exec --tag ci-node --file deploy/images/node.Dockerfile deploy
#
# One of them is the image of ci-coordinator in a task definition; scripts of jobs run in it. Add the tools that your jobs need to
# the stage `job`. It needs BuildKit, which sets TARGETARCH.

# As your gitlab-runner's version (gitlab-runner --version).
ARG RUNNER_VERSION=18.11.3

FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:x86_64-v${RUNNER_VERSION} AS helper-amd64
FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:arm64-v${RUNNER_VERSION} AS helper-arm64
FROM helper-${TARGETARCH} AS helper

FROM node:22-trixie-slim AS job
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git git-lfs \
    && rm -rf /var/lib/apt/lists/* \
    && git lfs install --system --skip-repo
# One static program. Scripts call it gitlab-runner.
COPY --from=helper /usr/bin/gitlab-runner-helper /usr/bin/gitlab-runner-helper
RUN ln -s gitlab-runner-helper /usr/bin/gitlab-runner

# For ECS Exec.
FROM job AS ecs-exec
ENTRYPOINT ["sleep"]
CMD ["infinity"]

# For SSH. The package makes host keys, which everyone who has the image would know. The entry point makes others.
FROM job AS ssh
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-server \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
COPY --chmod=755 ssh-entrypoint.sh /usr/local/bin/ssh-entrypoint.sh
EXPOSE 22
ENTRYPOINT ["/usr/local/bin/ssh-entrypoint.sh"]
