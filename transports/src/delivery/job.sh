# For tasks with a container of the job's own image. Its scripts run there, as children of the loop (loop.sh), which
# takes orders from a FIFO in $_shared, a directory of the volume that both containers have. The job may be root in its
# container, so anything in that directory may become a link to a file of this container at any time. So a file is
# read through a descriptor whose path was checked after it was opened, and only place.sh creates files for a run.
if [ -n "$_shared" ]; then
  # Opens file $2 as descriptor $1, if that is what its path leads to.
  open_checked() {
    [ -f "$2" ] && { eval "command exec $1<\"\$2\""; } 2>/dev/null && is_at "$1" "$2"
  }
  is_at() { [ "$(readlink "/proc/self/fd/$1")" = "$2" ]; }
  # Opens FIFO $2 for reading and writing as descriptor $1, which waits for no other end.
  open_fifo() { [ -p "$2" ] && { eval "command exec $1<>\"\$2\""; } 2>/dev/null && is_at "$1" "$2"; }
  # Not recursively: a link may take the place of any directory below.
  forget_shared() (
    cd "$_shared/$1" 2>/dev/null && [ "$(readlink /proc/self/cwd)" = "$_shared/$1" ] || exit
    rm -f pid exit out err alive order script used
    cd .. && rmdir "$1"
  )
  forget() {
    rm -rf "${_directory:?}/$1"
    forget_shared "$1"
  }
  # $2 and $3 are the directories for builds and caches, $4 is the loop, with another character for each end of line.
  prepare_job() {
    _failure=nojobtools
    for _tool in chmod mkfifo readlink rmdir; do
      command -v "$_tool" >/dev/null 2>&1 || _failure="$_failure $_tool"
    done
    [ "$_failure" = nojobtools ] || return
    _failure=novolume
    mkdir -p "$_shared" "$2" "$3"
    # The image may have any user. It is harmless if this fails: they may be as they should.
    chmod 777 "$2" "$3" 2>/dev/null
    _shared=$(cd "$_shared" && readlink /proc/self/cwd) || return
    _shared=$_shared/runs
    mkdir -m 755 "$_shared" 2>/dev/null
    cd "$_shared" && [ "$(readlink /proc/self/cwd)" = "$_shared" ] || return
    for _fifo in orders alive; do [ -p "$_fifo" ] || mkfifo -m 666 "$_fifo"; done
    [ -f up ] || (umask 0; set -C; printf "%80s\n" "" >up)
    _loop=loop.${_mark#"~"}
    open_checked 9 "$_shared/up" && (umask 022; set -C; printf "%s\n" "$4" | tr "^" "\n" >"../$_loop") || return
    # At once: the other container may be waiting for it.
    rm -f ../loop.sh
    mv "../$_loop" ../loop.sh
    _tries=0
    until is_up; do
      [ "$_tries" -lt 100 ] || { _failure=notup; return 1; }
      sleep 0.05 2>/dev/null || { sleep 1; _tries=$((_tries + 19)); }
      _tries=$((_tries + 1))
    done
    say "job $_has_bash $_job_has_setsid $_can_edit_hosts $_shared"
  }
  is_up() { read -r _first _has_bash _job_has_setsid _can_edit_hosts _last </proc/self/fd/9 && [ "$_first$_last" = .. ]; }
fi
if [ -n "$_container" ]; then
  # Descriptor 4 is the file exit, 7 is the spool. A path in /proc opens the same file again, from its beginning.
  _run=$_shared/$_name _out=/proc/self/fd/7
  # The status is 2 if it will never be.
  is_placed() {
    open_checked 9 "$_run/pid" || return 2
    read -r _first _pid _started _group _last <&9 && [ "$_first$_last" = .. ]
  }
  has_ended() {
    [ -n "$_is_open" ] || { open_checked 4 "$_run/exit" && _is_open=1; } || return 1
    { read -r _first _code _rest _last </proc/self/fd/4; } 2>/dev/null && [ "$_first$_last" = .. ] || return 1
    case $_code in "" | *[!0-9]*) return 1 ;; esac
  }
  # Only processes in the other container have alive open for writing. Their ids mean nothing here.
  await_end() {
    while read -r _line <&6; do
      ! has_ended || return
    done
  }
  verdict() {
    if has_ended; then
      # The other container has an accounting of its own.
      open_checked 9 "$_run/used" && read -r _first _memory _cpu _last <&9 && [ "$_first$_last" = .. ] && say "used $_memory $_cpu"
      _total=$(wc -c <"$_out")
      say "exit $_code $((_total))"
    elif [ ! -d "$_run" ]; then
      say "lost $_run was deleted while the script ran"
    elif is_loop_gone; then
      say "lost the main process of the container with the job image has ended"
    else
      say "lost $(open_checked 9 "$_run/err" && tail -n 3 <&9 | tr "\n" " ")"
    fi
  }
  # Only the loop has its FIFO open for writing.
  open_loop() { open_fifo 5 "$_shared/alive" && exec 9</proc/self/fd/5 5<&-; }
  # For a loop that lives, reading waits.
  is_loop_gone() {
    open_loop || return 0
    [ "$({ read -r _line <&9; echo gone; } & nap; kill -9 "$!")" = gone ]
  } 2>/dev/null
  give_order() {
    open_fifo 5 "$_shared/orders" && printf "%s %s\n" "$1" "$_name" >&5 && exec 5<&-
  }
  send_signal() { give_order "$1"; }
  find_interpreter() { :; }
  start_run() {
    if [ "$_has_setsid" = 1 ]; then _setsid=setsid; else _setsid=; fi
    _answer=$($_setsid /bin/sh -c "$_wrapper" fargate-place "$_run" "$_upload" "$_interpreter" "$@" </dev/null 3<&-)
    case $_answer in
    made | taken) attach 0 "$_has_gnu_tail" ;;
    *) say notstarted ;;
    esac
  }
  # Orders the loop to start the script, unless it has. A supervisor that died may have done so: the loop starts a run
  # only once. Descriptors 8 and 6 are the ends of the run's own FIFO.
  await_wrapper() {
    open_loop || return
    { read -r _line <&9; echo gone >&8; } &
    _watcher=$!
    # Another supervisor may take the line that the wrapper writes.
    {
      # A sleep that is left must not hold the FIFO open.
      while nap 8<&- && is_supervised; do echo waiting >&8; done
      kill -9 "$_watcher"
    } 2>/dev/null &
    if give_order start; then _line=; else _line=gone; fi
    until [ "$_line" = gone ]; do
      read -r _line <&6
      is_placed
      [ "$?" = 1 ] || break
    done
    kill -9 "$_watcher" "$!"
    [ -n "$_group" ]
  }
  is_supervised() { IFS= read -r _stat <"/proc/$$/stat" && case ${_stat##*) } in Z*) return 1 ;; esac; }
  attach() {
    _tries=0
    # place.sh writes this file last.
    until [ -s "$_run/order" ] || [ "$_tries" -ge 100 ]; do nap; _tries=$((_tries + 1)); done
    [ -s "$_run/order" ] || { say "lost it was interrupted before it could start the script"; exit 0; }
    open_checked 4 "$_run/exit" && _is_open=1 && open_checked 7 "$_run/out" && open_fifo 8 "$_run/alive" || {
      say "lost the files in $_run are not those of the driver"
      exit 0
    }
    exec 6</proc/self/fd/8
    _group=
    [ "$_answer" != made ] && is_placed || has_ended || await_wrapper || { say "notstarted the main process of the container with the job image has ended"; exit 0; }
    exec 8<&-
    case $_group in
    none)
      open_checked 9 "$_run/order" && read -r _interpreter <&9
      say nointerpreter "$_interpreter"
      exit 0
      ;;
    never)
      say "notstarted it was cancelled before it was started"
      exit 0
      ;;
    esac
    _size=0
    [ "$1" = 0 ] || _size=$(wc -c <"$_out")
    [ "$((_size))" -ge "$1" ] || { say "unknown its output is shorter ($((_size)) bytes) than what was read of it ($1)"; exit 0; }
    say started
    follow "$1" "$2"
  }
fi
