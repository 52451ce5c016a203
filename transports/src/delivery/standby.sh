# Serves starts of runs in this container, one after another, over a connection that stays open. While it waits, all that
# can be there before a script comes is there: its directory, and the processes that take, check, start and follow it.
#
#   the connection -> take_order -> tee -> sha256sum -> ready.sh -> follow_order -> the connection
#
# An order is a line: the standby's mark, then the size and the digest of the script, the name of the run, and that of a
# run to forget. The mark of the replies, the interpreter, and perhaps its argument come last. The script follows. When
# the driver has all of the output, or wants no more of it, it sends another line. One process at a time reads the connection: the one
# that takes the order, then the one that waits for that line.
#
# What fails here ends the standby. The driver then starts the run over a new connection, which does it only once.
_standby=$_mark _has_gnu_tail=$1 _starter=$3 _check="wc -c" _orders=0
if [ "$2" = 1 ]; then _setsid=setsid; else _setsid=; fi
for _tool in head mkfifo tee; do command -v "$_tool" >/dev/null 2>&1 || exit; done
if command -v sha256sum >/dev/null 2>&1; then _check=sha256sum; fi
# take_order has said it.
begin() { :; }
# As in follow.sh, but a line means that the driver wants no more.
await_departure() {
  read -r _line <&3
  kill -9 "$1"
  shift
  has_ended || kill -9 "$@"
}
end_follower() {
  kill -9 "$_watcher"
  echo ended >&8
  wait "$_departure"
}
# The kernel notifies GNU tail of every write. It does not end by itself: with --pid, it would poll ten times a second.
# The driver knows how many bytes will come, and closes the input when it has them.
follow_with_tail() {
  if has_ended; then
    verdict
    tail -c "+$(($1 + 1))" "$_run/out"
    await_enough
    return
  fi
  begin_tail "$1" 3<&- 6<&- 2>/dev/null &
  _tail=$!
  read -r _self _rest </proc/self/stat
  await_departure "$_tail" "$_self" "$$" 2>/dev/null &
  _departure=$!
  await_end
  verdict
  # A spool that was truncated never reaches that size.
  ! has_ended || has_all_output || { kill "$_tail"; kill -9 "$_departure"; exit 1; }
  kill -USR1 "$_tail" 2>/dev/null
  wait "$_tail"
  case $? in
  # It had not begun: 138 is SIGUSR1 before the trap.
  100 | 138)
    [ ! -s "$_run/out" ] || tail -c "+$(($1 + 1))" "$_run/out"
    ;;
  esac
  wait
}
has_all_output() { [ "$_total" = 0 ] || [ "$(wc -c <"$_run/out")" -ge "$_total" ]; }
# A standby's next run must not begin before the driver has all output of this one.
await_enough() { has_all_output && read -r _line <&3 || exit 1; }
# To end, a tail that the kernel notifies takes the kernel 10 ms, and the next run waits for that. So one begins only if
# the script runs for a moment. SIGUSR1 ends this until then.
begin_tail() {
  trap "kill \$_nap; wait; exit 100" USR1
  sleep 0.02 &
  _nap=$!
  wait "$_nap"
  trap "" USR1
  exec tail -c "+$(($1 + 1))" -s 0.1 -f "$_run/out"
}
prepare() {
  # A name is used once, so a directory that was moved into another one is recognized.
  _orders=$((_orders + 1))
  _ready=$_directory/ready.$$.$_orders
  mkdir -p -m 700 "$_ready" || return
  # These reserve space for records, which must be written even if the script fills the disk.
  printf "%80s\n" "" >"$_ready/pid" && printf "%80s\n" "" >"$_ready/exit" && printf "" >"$_ready/out" || return
  mkfifo -m 600 "$_ready/alive"
}
take_order() {
  _line=
  # What is left of an earlier line is ignored.
  until case $_line in "$_standby "*) ;; *) false ;; esac; do
    IFS= read -r _line <&3 || exit
  done
  eval "set -- ${_line#* }"
  _size=$1 _sum=$2 _forget=$4 _mark=$5 _interpreter=$6
  find_interpreter || { say nointerpreter "$_interpreter"; exit; }
  [ "$_check" = sha256sum ] || _sum=$_size
  receive "$_size" <&3 || exit
  # Not before: head may read ahead, and the driver waits for this before it sends the next line.
  printf "%s begin\n" "$_mark" >&7
  # The order is what ready.sh starts by: not before the driver says so, and not if it is gone.
  read -r _line <&3 && [ "$_line" = go ] &&
    printf "%s\n" "$_mark $3" "$_directory/$3" "$_sum" "$_interpreter" "$7" >"$_ready/order"
  exec >&-
  [ -z "$_forget" ] || forget "$_forget"
}
keep() { tee "$_ready/script" || rm -f "$_ready/script"; }
# The status is 0 if another order can be served.
follow_order() {
  read -r _mark _name && read -r _pid _started || exit 1
  _run=$_directory/$_name _out=$_run/out
  # Another connection has started it. That is rare, and this is not worth another order.
  [ "$_pid" != taken ] || { attach 0 "$_has_gnu_tail"; exit 1; }
  # This process has no child that could interrupt it yet.
  printf "%s started\n" "$_mark" >&2
  exec 6<&0
  follow 0 "$_has_gnu_tail"
  has_ended && has_all_output
}
# The shell's own messages about processes that are killed would mix with the replies.
exec 4>&2 2>/dev/null 7>&1
while
  printf "%s idle\n" "$_standby"
  printf "%s idle\n" "$_standby" >&4
  prepare
do
  take_order 2>&4 |
    keep 3<&- 4>&- 7>&- |
    $_check 3<&- 4>&- 7>&- |
    $_setsid /bin/sh -c "$_wrapper" fargate-ready "$_ready" "$_starter" $_setsid 3<&- 4>&- 7>&- |
    follow_order 2>&4 || break
done
rm -rf "$_ready"
