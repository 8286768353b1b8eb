# Debian's packages without installing any (sourced). Downloads come from the host's own mirror, signatures are checked
# by apt against Debian's keyring, and nothing outside the given folder changes.

die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# debian_open WORK SUITE…: reads the package lists of these suites into WORK.
debian_open() {
    local need suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    for need in apt-get dpkg-deb; do
        command -v $need >/dev/null || die "no $need here: it needs Debian's packages"
    done
    [ -e $keyring ] || die "no $keyring (package debian-archive-keyring)"
    [ "$(uname -m)" = x86_64 ] || die "only made for x86_64 so far"
    debian_work=$1 && shift
    mkdir -p "$debian_work"/{lists/partial,cache/archives/partial,sources,debs}
    : >"$debian_work/status" # as if nothing were installed: what is fetched does not depend on this host

    local main security host
    main=$(mirror "") security=$(mirror -security)
    [ -n "$main" ] || die "no Debian mirror in apt's configuration"
    [ -n "$security" ] || security=${main%/debian*}/debian-security
    for suite; do
        case $suite in *-security) host=$security ;; *) host=$main ;; esac
        printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' "$host" "$suite" $keyring
    done >"$debian_work/sources/debian.sources"
    debian_options=(-qq -o Dir::State::lists="$debian_work/lists" -o Dir::State::status="$debian_work/status"
        -o Dir::Cache="$debian_work/cache" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$debian_work/sources"
        -o APT::Sandbox::User=root -o Debug::NoLocking=1 -o APT::Install-Recommends=0 -o APT::Architecture=amd64)
    apt-get "${debian_options[@]}" update || die "apt-get update failed"
}
mirror() { # of the host's own release; $1 is its suffix
    (
        . /etc/os-release
        apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
            "Release: ${VERSION_CODENAME:-none}$1" 'Component: main' | head -n 1
    )
}

# debian_closure PACKAGE…: names of the packages and of all that they depend on (apt's options may be among them).
debian_closure() {
    apt-get "${debian_options[@]}" install --print-uris -y "$@" | awk '{ sub(/_.*/, "", $2); print $2 }'
}

# debian_unpack FOLDER PACKAGE…: downloads exactly these and unpacks them (apt's options may be among them).
debian_unpack() {
    local folder=$1 deb && shift
    rm -f "$debian_work"/debs/*.deb
    (cd "$debian_work/debs" && apt-get "${debian_options[@]}" download "$@") || die "cannot download $*"
    mkdir -p "$folder"
    for deb in "$debian_work"/debs/*.deb; do dpkg-deb -x "$deb" "$folder"; done
}
