# Reads what this container has used since it began, from the accounting of cgroup 2 or 1: the most memory, in bytes, and
# CPU time, in microseconds. What is not there is a hyphen. Only builtins are used, so this takes no time.
_cgroup=/sys/fs/cgroup
read_usage() {
  _memory=- _cpu=-
  { read -r _memory <"$_cgroup/memory.peak" || read -r _memory <"$_cgroup/memory/memory.max_usage_in_bytes"; } 2>/dev/null
  { while read -r _key _value; do case $_key in usage_usec) _cpu=$_value ;; esac; done <"$_cgroup/cpu.stat"; } 2>/dev/null
  [ "$_cpu" != - ] || { { read -r _value <"$_cgroup/cpuacct/cpuacct.usage" && _cpu=${_value%???}; } 2>/dev/null; }
  _memory=${_memory:--} _cpu=${_cpu:--}
}
