# In front of a script that uses services. They share the task's network, so their names are those
# of this host. Their host names are in $_names. The words of $_ports are port in hexadecimal, port,
# service. Seconds are in $_wait. The file $_marker shows that an earlier script has waited.
(
  _line="127.0.0.1 $_names";
  _known=;
  while IFS= read -r _present; do
    if [ "$_present" = "$_line" ]; then _known=1; fi;
  done 2>/dev/null </etc/hosts;
  if [ -e "$_marker" ]; then exit 0; fi;
  : >"$_marker";
  if [ -z "$_known" ] && ! { echo "$_line" >>/etc/hosts; } 2>/dev/null; then
    echo "fargate: WARNING: the image's user cannot write to /etc/hosts, so the names of services are unknown here ($_names). They answer at localhost.";
  fi;
  uptime() { read -r _seconds _rest </proc/uptime; _seconds=${_seconds%%.*}; };
  # Whether something listens at a TCP port: state 0A in the kernel's tables.
  is_open() {
    for _table in /proc/net/tcp /proc/net/tcp6; do
      while read -r _slot _local _remote _state _rest; do
        case ${_local##*:}:$_state in "$1:0A") return 0;; esac;
      done <"$_table";
    done 2>/dev/null;
    return 1;
  };
  uptime;
  _until=$((_seconds + _wait));
  for _service in $_ports; do
    _hex=${_service%%,*};
    _about=${_service#*,};
    until is_open "$_hex"; do
      uptime;
      if [ "$_seconds" -ge "$_until" ]; then
        echo "fargate: WARNING: the service ${_about#*,} probably did not start properly: nothing listens at port ${_about%%,*} after $_wait s.";
        break;
      fi;
      sleep 0.2 2>/dev/null || sleep 1;
    done;
  done;
) </dev/null;
