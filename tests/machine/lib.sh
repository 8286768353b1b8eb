# Shared by the scripts of this folder (sourced).

# cover_but DIR… -- KEEP…
# Puts an empty tmpfs over each DIR, except that each KEEP stays where it is. For a mount namespace of our own.
cover_but() {
    local covers=() hold i=0 path
    while [ "$1" != -- ]; do covers+=("$1"); shift; done
    shift
    hold=$(mktemp -d /dev/shm/hold.XXXXXX)
    for path; do
        mkdir "$hold/$i" && mount --bind "$path" "$hold/$i" && i=$((i + 1)) || return
    done
    for path in "${covers[@]}"; do mount -t tmpfs -o mode=755 cover "$path" || return; done
    i=0
    for path; do
        mkdir -p "$path" && mount --move "$hold/$i" "$path" && rmdir "$hold/$i" && i=$((i + 1)) || return
    done
    rmdir "$hold"
}

# The topmost ancestor of $1 that other users cannot pass, if there is one.
closed_ancestor() {
    local dir=/ part parts
    IFS=/ read -ra parts <<<"${1#/}"
    for part in "${parts[@]}"; do
        dir=${dir%/}/$part
        [ $((0$(stat -c %a "$dir") & 1)) = 1 ] || { echo "$dir"; return; }
    done
}
