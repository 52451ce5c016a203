# The coordinator's image, for jobs with images of their own (docs/images.md): git, and GitLab's helper for artifacts and caches.
#
#   docker build --target ssh --tag ci-job-ssh --file deploy/images/coordinator.Dockerfile deploy
#   docker build --target ecs-exec --tag ci-job --file deploy/images/coordinator.Dockerfile deploy
#
# They are the images of task-definition-ssh.json and task-definition-ecs-exec.json. With --platform linux/arm64, they are for tasks
# with ARM64. It needs BuildKit, which sets TARGETARCH.

# As your gitlab-runner's version (gitlab-runner --version).
ARG RUNNER_VERSION=18.11.3

FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:x86_64-v${RUNNER_VERSION} AS helper-amd64
FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:arm64-v${RUNNER_VERSION} AS helper-arm64
FROM helper-${TARGETARCH} AS helper

FROM debian:trixie-slim AS coordinator
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git git-lfs \
    && rm -rf /var/lib/apt/lists/* \
    && git lfs install --system --skip-repo
# One static program. Scripts call it gitlab-runner.
COPY --from=helper /usr/bin/gitlab-runner-helper /usr/bin/gitlab-runner-helper
RUN ln -s gitlab-runner-helper /usr/bin/gitlab-runner

# For ECS Exec. What its sessions need (sh, stty, head, base64, setsid, gzip) is in Debian's image.
FROM coordinator AS ecs-exec
ENTRYPOINT ["sleep"]
CMD ["infinity"]

# For SSH.
FROM coordinator AS ssh
# The package makes host keys, which everyone who has the image would know. The entry point makes others.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-server \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
COPY --chmod=755 ssh-entrypoint.sh /usr/local/bin/ssh-entrypoint.sh
EXPOSE 22
ENTRYPOINT ["/usr/local/bin/ssh-entrypoint.sh"]
