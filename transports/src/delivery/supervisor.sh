w=$1 v=$2 k=$3 d=$4 r=$4/$5
shift 5
# By a process without children: busybox drops what a SIGCHLD interrupts.
say() { (printf "%s %s\n" "$k" "$*" >&2); }
nap() { sleep 0.05 2>/dev/null || sleep 1; }
# pid and exit are written in one piece over blanks. Shells read them byte by byte, maybe meanwhile: only what
# begins and ends with a dot is all there.
placed() { { read -r a p s g e <"$r/pid"; } 2>/dev/null && [ "$a$e" = .. ]; }
ended() { { read -r a c n e <"$r/exit"; } 2>/dev/null && [ "$a$e" = .. ]; }
# The same process, not another one that has got its number; a zombie is none.
alive() {
  { IFS= read -r l <"/proc/$p/stat"; } 2>/dev/null || return 1
  set -- ${l##*) }
  [ "$1" != Z ] && [ "${20}" = "$s" ]
}
verdict() {
  if ended; then say "exit $c $n"; elif [ ! -d "$r" ]; then say "lost $r was deleted while the script ran"; else say "lost $(tail -n 3 "$r/err" 2>/dev/null | tr "\n" " ")"; fi
}
attach() {
  i=0
  until placed || [ "$i" -ge 100 ]; do nap; i=$((i + 1)); done
  placed || { say "lost it was interrupted before it could start the script"; exit 0; }
  n=$(wc -c <"$r/out") || n=0
  [ "$((n))" -ge "$1" ] || { say "unknown its output is shorter ($((n)) bytes) than what was read of it ($1)"; exit 0; }
  say started
  follow "$1" "$2" &
  until ended || ! alive; do nap; done
  verdict
  wait
}
# A script that asks for a shell that is not there gets another one; any other program cannot be replaced.
interpreter() {
  [ -n "$i" ] || i=${SHELL:-/bin/sh}
  command -v "$i" >/dev/null 2>&1 && return
  case ${i##*/} in
  sh | ash | bash | dash | ksh | mksh | zsh) i=${i##*/} && command -v "$i" >/dev/null 2>&1 || i=/bin/sh ;;
  *) return 1 ;;
  esac
}
case $v in
probe)
  for b in "$TMPDIR" /tmp /var/tmp "$HOME" /dev/shm; do
    case $b in /*) ;; *) continue ;; esac
    [ -d "$b" ] || continue
    # Hidden: scripts clean up with rm -rf /tmp/*.
    d=$b/.fargate-$1
    mkdir -m 700 "$d" || continue
    (echo ok >"$d/probe") && rm "$d/probe" || { rm -rf "$d"; continue; }
    t=0 s=0 i=0
    case $(tail --version 2>&1) in *GNU*) t=1 ;; esac
    if command -v setsid >/dev/null 2>&1; then s=1; fi
    if command -v bash >/dev/null 2>&1; then i=1; fi
    say "ready $t $s $i $d"
    exit 0
  done
  say "noplace"
  ;;
start)
  f=$1 z=$2 h=$3 t=$4 o=$5 i=$6
  shift 6
  [ -z "$f" ] || rm -rf "${d:?}/$f"
  [ -d "$d" ] || mkdir -p -m 700 "$d"
  u=$d/upload.$$
  cat >"$u" || { rm -f "$u"; say notstarted; exit 0; }
  n=$(wc -c <"$u")
  [ "$((n))" = "$z" ] || { rm -f "$u"; say "truncated $((n))"; exit 0; }
  # Where there is no such program, the size has to do.
  case $(sha256sum <"$u" 2>/dev/null) in "" | "$h"*) ;; *) rm -f "$u"; say damaged; exit 0 ;; esac
  interpreter || { rm -f "$u"; say nointerpreter "$i"; exit 0; }
  # A foreground pipeline: what a shell starts with & could never receive SIGINT or SIGQUIT again.
  # Its end of file tells that the wrapper is gone.
  if [ "$o" = 1 ]; then
    setsid /bin/sh -c "$w" fargate-run "$r" "$u" setsid "$i" "$@" </dev/null
  else
    /bin/sh -c "$w" fargate-run "$r" "$u" "$i" "$@" </dev/null
  fi | {
    read -r p
    case $p in
    made) ;;
    taken) attach 0 "$t"; exit 0 ;;
    *) rm -f "$u"; say notstarted; exit 0 ;;
    esac
    read -r p s || { cat "$r/err" >&2; rm -rf "$r"; say notstarted; exit 0; }
    say started
    follow 0 "$t" &
    read -r l
    verdict
    wait
  }
  ;;
attach)
  [ -d "$r" ] || { say "unknown there is no $r"; exit 0; }
  attach "$1" "$2"
  ;;
signal)
  # What a killed driver sent may still be on its way here: who makes the directory first decides whether it starts.
  if mkdir "$r" 2>/dev/null || [ ! -d "$r" ]; then say "unknown there is no $r"; exit 0; fi
  i=0
  until placed || ended || [ "$i" -ge 100 ]; do nap; i=$((i + 1)); done
  if placed && ! ended; then
    kill "-$1" "-$g" 2>/dev/null || kill "-$1" "$g" 2>/dev/null
  fi
  say done
  ;;
esac
