# Jobs on Alpine.
#
#   docker build --target ssh --tag ci-alpine-ssh --file deploy/images/alpine.Dockerfile deploy
#   docker build --target ecs-exec --tag ci-alpine --file deploy/images/alpine.Dockerfile deploy
#
# One of them is the image of ci-coordinator in a task definition; scripts of jobs run in it. Add the tools that your jobs need to
# the stage `job`. It needs BuildKit, which sets TARGETARCH.

# As your gitlab-runner's version (gitlab-runner --version).
ARG RUNNER_VERSION=18.11.3

FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:x86_64-v${RUNNER_VERSION} AS helper-amd64
FROM registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper:arm64-v${RUNNER_VERSION} AS helper-arm64
FROM helper-${TARGETARCH} AS helper

FROM alpine:3.22 AS job
RUN apk add --no-cache bash ca-certificates git git-lfs \
    && git lfs install --system --skip-repo
# One static program. Scripts call it gitlab-runner.
COPY --from=helper /usr/bin/gitlab-runner-helper /usr/bin/gitlab-runner-helper
RUN ln -s gitlab-runner-helper /usr/bin/gitlab-runner

# For ECS Exec.
FROM job AS ecs-exec
ENTRYPOINT ["sleep"]
CMD ["infinity"]

# For SSH. Alpine's package makes no host keys, and Alpine locks the account of root, which the entry point unlocks for keys.
FROM job AS ssh
RUN apk add --no-cache openssh-server openssh-keygen
COPY --chmod=755 ssh-entrypoint.sh /usr/local/bin/ssh-entrypoint.sh
EXPOSE 22
ENTRYPOINT ["/usr/local/bin/ssh-entrypoint.sh"]
