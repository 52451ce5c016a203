follow() {
  printf "%s begin\n" "$k"
  if [ "$2" = 1 ]; then
    exec tail -c "+$(($1 + 1))" -s 0.1 "--pid=$p" -f "$r/out"
  fi
  exec 5<"$r/out"
  # dd leaves the offset of the shared descriptor where it is to be read from.
  [ "$1" = 0 ] || dd bs=1 "skip=$1" count=0 <&5 >/dev/null 2>&1
  while :; do
    o=0
    if ended || ! alive; then o=1; fi
    cat <&5 || exit
    [ "$o" = 0 ] || exit 0
    nap
  done
}
