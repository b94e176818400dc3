# SPDX-License-Identifier: MIT
# The reference QEMU of bench/: unpacked into the cache with its own libraries, never installed.

qemu_present() {
    [ -x "$CACHE/qemu/qemu-system-riscv64" ]
}

qemu_fetch() {
    local apt="$CACHE/apt-qemu" root="$CACHE/.staging-qemu" arch deb
    arch=$(dpkg --print-architecture)
    rm -rf "$apt" "$root"
    private_apt_init "$apt" "$arch" bookworm bookworm-backports || {
        echo "cannot read bookworm-backports through this machine's apt sources" >&2
        return 1
    }
    private_apt "$apt" apt-get install -q -y -d -t bookworm-backports -o APT::Get::AllowUnauthenticated=false \
        -o Debug::NoLocking=true qemu-system-riscv ipxe-qemu >"$apt/install.log" 2>&1 || {
        tail -n 3 "$apt/install.log" >&2
        return 1
    }
    mkdir -p "$root/root"
    # All its libraries but the C library, which must be of one piece with the system's loader.
    for deb in "$apt"/cache/archives/*.deb; do
        case $deb in
        */libc6_* | */libgcc-s1_*) ;;
        *) dpkg-deb -x "$deb" "$root/root" || return 1 ;;
        esac
    done
    # Its built-in module folder is the system's, where another version's modules make it abort:
    # name one, of the same length, that is not there.
    sed -i "s#/usr/lib/$(uname -m)-linux-gnu/qemu#/nil/lib/$(uname -m)-linux-gnu/qemu#g" \
        "$root/root/usr/bin/qemu-system-riscv64"
    cat >"$root/qemu-system-riscv64" <<'RUN'
#!/bin/sh
R=$(dirname "$(readlink -f "$0")")/root
T=$(uname -m)-linux-gnu
export LD_LIBRARY_PATH="$R/usr/lib/$T:$R/lib/$T"
exec "$R/usr/bin/qemu-system-riscv64" -L "$R/usr/share/qemu" -L "$R/usr/lib/ipxe/qemu" "$@"
RUN
    chmod 755 "$root/qemu-system-riscv64"
    "$root/qemu-system-riscv64" --version >"$root/VERSION" || return 1
    rm -rf "${CACHE:?}/qemu" "$apt"
    mv -T "$root" "$CACHE/qemu"
}
