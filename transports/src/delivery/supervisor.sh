# Runs in the container for every verb: probe, start, attach, signal. Comments and indentation are not sent. Names begin
# with an underscore, so that no environment variable changes for the script. The verbs follow in verbs.sh, or a
# standby in standby.sh. In tasks with a container of the job's own, job.sh comes before them.
_wrapper=$1 _verb=$2 _mark=$3 _directory=$4 _name=$5 _shared=$6 _container=$7
shift 7
_run=$_directory/$_name _out=$_run/out
# A process without children writes, because busybox drops output that a SIGCHLD interrupts.
say() { (printf "%s %s\n" "$_mark" "$*" >&2); }
nap() { sleep 0.05 2>/dev/null || sleep 1; }
# pid and exit are written in one piece over blanks. A shell may read them byte by byte meanwhile: only a line that
# begins and ends with a dot is complete.
is_placed() { { read -r _first _pid _started _group _last <"$_run/pid"; } 2>/dev/null && [ "$_first$_last" = .. ]; }
has_ended() { { read -r _first _code _total _last <"$_run/exit"; } 2>/dev/null && [ "$_first$_last" = .. ]; }
# The start time shows that it is the same process, not another one with its number. A zombie is not alive.
is_alive() {
  { IFS= read -r _stat <"/proc/$_pid/stat"; } 2>/dev/null || return 1
  set -- ${_stat##*) }
  [ "$1" != Z ] && [ "${20}" = "$_started" ]
}
is_over() { has_ended || ! is_alive; }
# Descriptor 6 reaches end of file when the wrapper has died for any reason, so waiting there costs nothing. Without a
# FIFO it is at end of file from the start, and this polls twenty times a second.
await_end() {
  until is_over; do
    read -r _line <&6
    is_over || nap
  done
}
report_end() {
  read_usage
  # As say does, with one process for both.
  (printf "%s used %s %s\n%s exit %s %s\n" "$_mark" "$_memory" "$_cpu" "$_mark" "$_code" "$_total" >&2)
}
verdict() {
  if has_ended; then
    report_end
  elif [ ! -d "$_run" ]; then
    say "lost $_run was deleted while the script ran"
  else
    say "lost $(tail -n 3 "$_run/err" 2>/dev/null | tr "\n" " ")"
  fi
}
# Prints something whenever the spool grows beyond byte $1, without polling. Ends at once if no tool can do that.
watch_spool() {
  if [ "$2" = 1 ]; then
    exec tail -c "+$(($1 + 1))" -s 0.1 -f "$_run/out"
  elif command -v inotifyd >/dev/null 2>&1; then
    read -r _watcher _rest </proc/self/stat
    # inotifyd does not announce writes from before it watches.
    until_it_watches "$_watcher" &
    # inotifyd cannot watch paths with a colon.
    cd "$_run" && exec inotifyd - out:c
  fi
}
until_it_watches() {
  while echo && ! grep -q "^inotify" "/proc/$1/fdinfo/"*; do nap; done
  echo
}
# Opens the spool from byte $1, as descriptor 5.
open_spool() {
  { command exec 5<"$_out"; } 2>/dev/null || exec 5</dev/null
  # dd moves the offset of the shared descriptor.
  [ "$1" = 0 ] || dd bs=1 "skip=$1" count=0 <&5 >/dev/null 2>&1
}
# Turns output of watch_spool into lines, at most twenty a second; twenty a second once it has ended.
limit_changes() {
  while echo changed && nap; do
    case $(dd bs=65536 count=1 2>&1 >/dev/null) in 0+0*) break ;; esac
  done
  while echo changed && nap; do :; done
}
# Calls copy whenever the spool may have grown, and reports the verdict as soon as the script has ended. Every event
# comes as a line through one pipe, so nothing is polled.
follow_changes() {
  read -r _follower _rest </proc/self/stat
  {
    {
      watch_spool "$@" &
      _watcher=$! _departure=
      # The pipe must reach end of file when the watcher ends.
      exec >/dev/null
      if [ -n "$_is_connected" ]; then
        read -r _self _rest </proc/self/stat
        (await_departure "$_watcher" "$_self" "$_follower" "$$"; echo departed >&8) &
        _departure=$!
      fi
      await_end
      # The verdict must not wait behind output that may not be read.
      verdict 2>&9
      end_follower
    } 2>/dev/null | limit_changes
  } 8>&1 9>&2 | handle_changes
}
handle_changes() {
  while read -r _event; do
    case $_event in
    changed) copy ;;
    departed) break ;;
    ended)
      copy
      break
      ;;
    esac
  done
}
end_follower() {
  kill -9 "$_watcher" $_departure
  echo ended >&8
}
attach() {
  _tries=0
  until is_placed || [ "$_tries" -ge 100 ]; do nap; _tries=$((_tries + 1)); done
  is_placed || { say "lost it was interrupted before it could start the script"; exit 0; }
  _size=$(wc -c <"$_run/out") || _size=0
  [ "$((_size))" -ge "$1" ] || { say "unknown its output is shorter ($((_size)) bytes) than what was read of it ($1)"; exit 0; }
  # Opening a FIFO for reading waits for a writer, and the wrapper may be gone: for a moment, this shell is a writer
  # itself. With command, the shell survives a failure if the directory has just been deleted.
  [ -p "$_run/alive" ] && { command exec 8<>"$_run/alive" 6<"$_run/alive" 8>&-; } 2>/dev/null || exec 6</dev/null
  say started
  follow "$1" "$2"
}
# Reads exactly $1 bytes: the input stays open while the driver follows.
receive() {
  if command -v head >/dev/null 2>&1; then
    # On a full disk, cat reports the error better than busybox's head.
    head -c "$1" || { printf "%9999s" "" | cat; return 1; }
    return
  fi
  _left=$1
  while [ "$_left" -gt 0 ]; do
    # A read from a pipe may return less than requested.
    _message=$(dd "bs=$_left" count=1 2>&1 >"$_upload.piece") && cat "$_upload.piece" || {
      rm -f "$_upload.piece"
      echo "$_message" >&2
      return 1
    }
    [ -s "$_upload.piece" ] || break
    _left=$((_left - $(wc -c <"$_upload.piece")))
  done
  rm -f "$_upload.piece"
}
# A script whose shell is missing gets another shell; other programs cannot be replaced.
find_interpreter() {
  [ -n "$_interpreter" ] || _interpreter=${SHELL:-/bin/sh}
  command -v "$_interpreter" >/dev/null 2>&1 && return
  case ${_interpreter##*/} in
  sh | ash | bash | dash | ksh | mksh | zsh)
    _interpreter=${_interpreter##*/} && command -v "$_interpreter" >/dev/null 2>&1 || _interpreter=/bin/sh
    ;;
  *) return 1 ;;
  esac
}
forget() { rm -rf "${_directory:?}/$1"; }
start_run() {
  # A foreground pipeline: a background process of a shell ignores SIGINT and SIGQUIT for ever. Its end of file means
  # that the wrapper is gone.
  if [ "$_has_setsid" = 1 ]; then _setsid=setsid; else _setsid=; fi
  $_setsid /bin/sh -c "$_wrapper" fargate-run "$_run" "$_upload" $_setsid "$_interpreter" "$@" </dev/null 3<&- | {
    read -r _answer
    case $_answer in
    made) ;;
    taken) attach 0 "$_has_gnu_tail"; exit 0 ;;
    *) rm -f "$_upload"; say notstarted; exit 0 ;;
    esac
    read -r _pid _started || { cat "$_run/err" >&2; rm -rf "$_run"; say notstarted; exit 0; }
    say started
    exec 6<&0
    follow 0 "$_has_gnu_tail"
  }
}
send_signal() { kill "-$1" "-$_group" 2>/dev/null || kill "-$1" "$_group" 2>/dev/null; }
