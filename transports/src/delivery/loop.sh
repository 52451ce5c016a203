# The main program of the container with the job's image, which needs nothing but sh. It takes orders, a line each, from
# a FIFO in $_runs, which is set in front of it, and starts scripts as its children. So they have the environment, the
# user and the working directory of the image. Names begin with an underscore, so that no environment variable changes.
# It is sent without single quotes and circumflexes.
_has_bash=0 _has_setsid=0 _can_edit_hosts=0
# As gitlab-runner does in containers.
find_shell() {
  for _shell in /usr/local/bin/bash /usr/bin/bash /bin/bash /usr/local/bin/sh /usr/bin/sh /bin/sh /busybox/sh "$_first_shell"; do
    [ ! -x "$_shell" ] || return 0
  done
  return 1
}
_first_shell=$(command -v sh)
find_shell || _shell=sh
case $_shell in */bash) _has_bash=1 ;; esac
_setsid=$(command -v setsid) && _has_setsid=1
[ ! -w /etc/hosts ] || _can_edit_hosts=1
# The supervisors see by this FIFO that the loop lives: only its processes have it open for writing.
exec 7<>"$_runs/orders" 9<>"$_runs/alive"
printf "%-80s\n" ". $_has_bash $_has_setsid $_can_edit_hosts ." 1<>"$_runs/up"
# Passes names of runs to start_scripts, and sends signals meanwhile.
take_orders() {
  while :; do
    read -r _verb _name <&7 || { sleep 1 || exit; continue; }
    case $_verb in
    start) echo "$_name" ;;
    # A script that has not been started is not to be, should its order still come.
    TERM | KILL) signal_script "$_verb" || echo "-$_name" ;;
    esac
  done
}
signal_script() {
  _run=$_runs/$_name
  { read -r _first _rest <"$_run/exit"; } 2>/dev/null
  [ -z "$_first" ] || return 0
  { read -r _first _pid _started _group _last <"$_run/pid"; } 2>/dev/null
  [ "$_first$_last" = .. ] || return 1
  case $_group in
  none | never) ;;
  -) signal_family "$1" ;;
  *) kill "-$1" "-$_group" 2>/dev/null || kill "-$1" "$_pid" 2>/dev/null ;;
  esac
  return 0
}
# For a script in the process group of the loop: its descendants, and all processes that write to its spool.
signal_family() {
  _signal=$1 _family=" $_pid " _before=
  [ "$_signal" != KILL ] || kill -STOP "$_pid" 2>/dev/null
  until [ "$_before" = "$_family" ]; do
    _before=$_family
    for _process in /proc/[0-9]*; do
      case $_family in *" ${_process##*/} "*) continue ;; esac
      { IFS= read -r _stat <"$_process/stat"; } 2>/dev/null || continue
      is_relative ${_stat##*) } || continue
      _family="$_family${_process##*/} "
      # A process that is stopped has no more children.
      [ "$_signal" != KILL ] || kill -STOP "${_process##*/}" 2>/dev/null
    done
  done
  kill "-$_signal" $_family 2>/dev/null
}
is_relative() {
  case $_family in *" $2 "*) return ;; esac
  [ "$_process/fd/1" -ef "$_run/out" ] || [ "$_process/fd/2" -ef "$_run/out" ]
}
# One after the other, and in the foreground: a background process of a shell ignores SIGINT and SIGQUIT for ever.
start_scripts() {
  while read -r _name; do
    case $_name in
    -*) (cancel_script "${_name#-}") ;;
    *) (start_script) ;;
    esac
  done
}
cancel_script() {
  read -r _first _rest <"$_runs/$1/pid" 2>/dev/null || exit
  [ -n "$_first" ] || printf "%-80s\n" ". 0 0 never ." 1<>"$_runs/$1/pid"
}
# The parent of a script. It keeps all state in files.
start_script() {
  _run=$_runs/$_name
  [ -s "$_run/order" ] || exit
  # An order may come twice.
  read -r _first _rest <"$_run/pid"
  [ -z "$_first" ] || exit
  trap : HUP INT TERM PIPE
  # Only this process has the FIFO open for writing, until it ends: then its readers see end of file at once.
  exec 3<>"$_run/alive" 7<&- 9<&- 2>>"$_run/err"
  _program= _argument= _is_missing=
  # Builders of images remove everything in the container, and may put another system there.
  [ -x "$_setsid" ] || _setsid=
  [ -x "$_shell" ] || find_shell || _is_missing=1
  { read -r _program && read -r _argument; } <"$_run/order"
  case ${_program##*/} in
  "" | sh | ash | bash | dash) _program=$_shell ;;
  *)
    command -v "$_program" >/dev/null 2>&1 || case ${_program##*/} in
    ksh | mksh | zsh) _program=$_shell ;;
    *)
      printf "%-80s\n" ". 0 0 none ." 1<>"$_run/pid"
      echo started >&3
      exit
      ;;
    esac
    ;;
  esac
  # Gives the script a process group, in shells that can do it without a terminal.
  [ -n "$_setsid" ] || set -m 2>/dev/null
  (
    IFS= read -r _stat </proc/self/stat
    _pid=${_stat%% *}
    read_group ${_stat##*) }
    printf "%-80s\n" ". $_pid 0 $_group ." 1<>"$_run/pid"
    echo started >&3
    case $_is_missing$_program in "1$_shell")
      echo "fargate: no shell is left in the container with the job image, so this script cannot run." >>"$_run/out"
      exit 127
      ;;
    esac
    exec $_setsid "$_program" ${_argument:+"$_argument"} "$_run/script" </dev/null >>"$_run/out" 2>&1 3>&-
  )
  _code=$?
  read_usage
  [ ! -f "$_run/used" ] || printf "%-80s\n" ". $_memory $_cpu ." 1<>"$_run/used"
  # The supervisor counts the output.
  printf "%-80s\n" ". $_code - ." 1<>"$_run/exit"
}
read_group() {
  # setsid makes this process the leader of a group.
  if [ -n "$_setsid" ] || [ "$3" = "$_pid" ]; then _group=$_pid; else _group=-; fi
}
serve() { take_orders | start_scripts; }
if [ "$$" = 1 ]; then
  # The kernel gives process 1 no signal that it does not handle, and a shell handles signals when it waits.
  serve &
  trap "exit 143" TERM
  wait "$!"
else
  trap - TERM
  serve
fi
