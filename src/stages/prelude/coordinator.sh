# In front of a script that runs in the coordinator of a job with an image. The image's user, who
# may be any, has to be able to change what the coordinator makes, as with GitLab's helper image.
umask 0000;
[ -n "${GIT_CONFIG_COUNT-}" ] || export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*';
# GitLab's helper image has no command of the name that scripts call.
if ! command -v gitlab-runner >/dev/null 2>&1 && command -v gitlab-runner-helper >/dev/null 2>&1; then
  mkdir -p -m 755 /tmp/.fargate-tools && printf '#!/bin/sh\nexec gitlab-runner-helper "$@"\n' >/tmp/.fargate-tools/gitlab-runner && chmod 755 /tmp/.fargate-tools/gitlab-runner && export PATH="$PATH:/tmp/.fargate-tools";
fi;
