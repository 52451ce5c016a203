# In front of a script that runs in the job's container: its files belong to the coordinator's user.
[ -n "${GIT_CONFIG_COUNT-}" ] || export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*';
