# SPDX-License-Identifier: MIT
# A private apt: other suites and architectures, from the machine's own mirror, touching nothing in /etc or /var.
#
# The mirror, the proxies and the credentials are the machine's: the list of sources is asked of
# apt itself, so that deb822 and one-line files, and whatever apt learns next, are all understood.

# The mirrors the machine uses for its own release, most likely Debian archives first.
private_apt_mirrors() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
    apt-get update --print-uris 2>/dev/null |
        sed -n "s#^'\(.*\)/dists/$codename/InRelease'.*#\1#p" |
        awk '/\/debian$/ { print; next } { rest = rest $0 "\n" } END { printf "%s", rest }' |
        awk '!seen[$0]++'
}

# private_apt_init DIR ARCH SUITE...: make DIR a private apt with fresh package lists.
private_apt_init() {
    local dir=$1 arch=$2
    shift 2
    mkdir -p "$dir"/{state/lists/partial,cache/archives/partial,etc,conf.d,empty,out}
    : >"$dir/state/status"

    # The machine's own configuration holds, except its clean-up hooks: they delete
    # archives that an installation running beside us may still need.
    local conf
    for conf in /etc/apt/apt.conf.d/*; do
        [ -f "$conf" ] && ln -sf "$conf" "$dir/conf.d/"
    done
    printf '#clear %s;\n' DPkg::Post-Invoke DPkg::Pre-Install-Pkgs APT::Update::Pre-Invoke \
        APT::Update::Post-Invoke APT::Update::Post-Invoke-Success >"$dir/conf.d/zz-godwit"
    cat >>"$dir/conf.d/zz-godwit" <<CONF
Dir::State "$dir/state";
Dir::State::status "$dir/state/status";
Dir::Cache "$dir/cache";
Dir::Etc::sourcelist "$dir/etc/godwit.sources";
Dir::Etc::sourceparts "$dir/empty";
Dir::Etc::preferences "$dir/empty/none";
Dir::Etc::preferencesparts "$dir/empty";
APT::Architecture "$arch";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
    # Written last, because they replace lists that the machine's files may have set.
    printf '#clear APT::Architectures;\nAPT::Architectures { "%s"; };\n' "$arch" >>"$dir/conf.d/zz-godwit"
    echo "Dir::Etc::parts \"$dir/conf.d\";" >"$dir/apt.conf"

    local mirror
    for mirror in $(private_apt_mirrors); do
        cat >"$dir/etc/godwit.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: $*
Components: main
Architectures: $arch
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
        if private_apt "$dir" apt-get update -q --error-on=any >"$dir/update.log" 2>&1; then
            return 0
        fi
    done
    return 1
}

# private_apt DIR COMMAND...: run an apt command against that private configuration.
private_apt() {
    local dir=$1
    shift
    APT_CONFIG="$dir/apt.conf" "$@"
}

# private_apt_download DIR PACKAGE: fetch one .deb and print its path.
private_apt_download() {
    local dir=$1 package=$2 out
    out=$(mktemp -d "$dir/out/XXXXXX")
    (cd "$out" && private_apt "$dir" apt-get download -q "$package" >log 2>&1) || {
        cat "$out/log" >&2
        return 1
    }
    echo "$out"/*.deb
}
