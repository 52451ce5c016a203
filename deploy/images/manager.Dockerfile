# The runner manager: gitlab-runner and this driver, for a manager on Fargate (docs/infrastructure.md).
#
#   scripts/release
#   docker build --build-context packages=target/packages --tag ci-manager --file deploy/images/manager.Dockerfile deploy
#
# It needs BuildKit, for the second context and for TARGETARCH.

# Not newer than your GitLab.
ARG RUNNER_VERSION=18.11.3

FROM gitlab/gitlab-runner:ubuntu-v${RUNNER_VERSION} AS runner

FROM debian:trixie-slim
ARG TARGETARCH
COPY --from=packages fargate-driver_*_${TARGETARCH}.deb /tmp/
RUN apt-get update \
    && apt-get install --yes --no-install-recommends dumb-init /tmp/fargate-driver_*.deb \
    && rm -rf /var/lib/apt/lists/* /tmp/fargate-driver_*.deb
# One program, which needs nothing of its image for this executor.
COPY --from=runner /usr/bin/gitlab-runner /usr/bin/gitlab-runner
COPY --chmod=755 manager-entrypoint.sh /usr/local/bin/manager-entrypoint.sh
# At this signal gitlab-runner takes no more jobs, and waits for those that run.
STOPSIGNAL SIGQUIT
# The signal is the runner's alone: the driver's service goes on until the container ends.
ENTRYPOINT ["/usr/bin/dumb-init", "--single-child", "/usr/local/bin/manager-entrypoint.sh"]
