# SPDX-License-Identifier: MIT
# The reference QEMU of bench/: unpacked into the cache with its own loader and libraries, never installed.

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
        -o Debug::NoLocking=true qemu-system-misc >"$apt/install.log" 2>&1 || {
        tail -n 3 "$apt/install.log" >&2
        return 1
    }
    mkdir -p "$root/root"
    for deb in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$root/root" || return 1
    done
    # The tree has its own loader, so that the system's C library is not mixed in.
    cat >"$root/qemu-system-riscv64" <<'RUN'
#!/bin/sh
R=$(dirname "$(readlink -f "$0")")/root
export QEMU_MODULE_DIR=/nonexistent
exec "$(ls "$R"/lib64/ld-linux-*.so.2 "$R"/usr/lib64/ld-linux-*.so.2 2>/dev/null | head -n 1)" \
    --library-path "$(ls -d "$R"/usr/lib/*-linux-gnu | head -n 1):$(ls -d "$R"/lib/*-linux-gnu | head -n 1)" \
    --argv0 qemu-system-riscv64 "$R/usr/bin/qemu-system-riscv64" -L "$R/usr/share/qemu" "$@"
RUN
    chmod 755 "$root/qemu-system-riscv64"
    "$root/qemu-system-riscv64" --version >"$root/VERSION" || return 1
    rm -rf "${CACHE:?}/qemu" "$apt"
    mv -T "$root" "$CACHE/qemu"
}
