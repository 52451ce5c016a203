# Keeps a task's containers: keeper.sh DIRECTORY. Their processes are in a PID namespace whose first process
# reads standard input. When that ends, on request or because the cluster was killed, the kernel kills all
# of them, and the task's directory is removed.
unshare --pid --fork -- /bin/sh -c '
  # The procfs is still that of the host: this is the process ID there.
  read -r pid rest </proc/self/stat
  echo "$pid"
  exec cat >/dev/null
'
status=$?
rm -rf -- "$1"
exit "$status"
