case $_verb in
probe)
  for _parent in "$TMPDIR" /tmp /var/tmp "$HOME" /dev/shm; do
    case $_parent in /*) ;; *) continue ;; esac
    [ -d "$_parent" ] || continue
    # Hidden: scripts clean up with rm -rf /tmp/*.
    _directory=$_parent/.fargate-$1
    mkdir -m 700 "$_directory" || continue
    (echo ok >"$_directory/probe") && rm "$_directory/probe" || { rm -rf "$_directory"; continue; }
    _has_gnu_tail=0 _has_setsid=0
    case $(tail --version 2>&1) in *GNU*) _has_gnu_tail=1 ;; esac
    if command -v setsid >/dev/null 2>&1; then _has_setsid=1; fi
    [ -z "$_shared" ] || prepare_job "$@" || { rm -rf "$_directory"; say "$_failure"; exit 0; }
    say "ready $_has_gnu_tail $_has_setsid $_directory"
    exit 0
  done
  say "noplace"
  ;;
start)
  _forget=$1 _size=$2 _digest=$3 _has_gnu_tail=$4 _has_setsid=$5 _interpreter=$6
  shift 6
  [ -z "$_forget" ] || forget "$_forget"
  [ -d "$_directory" ] || mkdir -p -m 700 "$_directory"
  _upload=$_directory/upload.$$
  receive "$_size" >"$_upload" || { rm -f "$_upload"; say notstarted; exit 0; }
  _sum=$(sha256sum <"$_upload" 2>/dev/null)
  case $_sum in
  "$_digest"*) ;;
  *)
    _count=$(wc -c <"$_upload")
    [ "$((_count))" = "$_size" ] || { rm -f "$_upload"; say "truncated $((_count))"; exit 0; }
    # Without sha256sum, only the size is checked.
    [ -z "$_sum" ] || { rm -f "$_upload"; say damaged; exit 0; }
    ;;
  esac
  find_interpreter || { rm -f "$_upload"; say nointerpreter "$_interpreter"; exit 0; }
  start_run "$@"
  ;;
attach)
  [ -d "$_run" ] || { say "unknown there is no $_run"; exit 0; }
  attach "$1" "$2"
  ;;
signal)
  # A start that a killed driver sent may still arrive. Whichever makes the directory first decides whether the script
  # runs.
  if (set -C; mkdir "$_run" && true >"$_run/pid") 2>/dev/null || [ ! -d "$_run" ]; then say "unknown there is no $_run"; exit 0; fi
  _tries=0
  # Shorter than the driver waits for an answer.
  until is_placed || has_ended || [ "$_tries" -ge 30 ]; do nap; _tries=$((_tries + 1)); done
  # The loop in the container with the image also cancels a script that it has not started.
  if ! has_ended && { is_placed || [ -n "$_container" ]; }; then send_signal "$1"; fi
  say done
  ;;
esac
