# SPDX-License-Identifier: MIT
# The parts a guest is made of, fetched from Debian and kept in the cache, one folder per package version.
#
# Each part is unpacked beside its final place and renamed into it, and the short name (a symbolic
# link) is renamed last: a part is there whole or not at all, whatever interrupted us.

GUEST_SUITE=trixie
GUEST_MODULES="virtio_blk failover net_failover virtio_net virtio-rng virtio_balloon"
PC_MODULES="button evdev" # and the power button's
# What a laboratory host loads, of the same package (docs/laboratory.md).
LAB_MODULES="irqbypass kvm kvm-amd tun llc stp bridge failover net_failover virtio_net"
# What q35 and microvm need to boot a kernel of their own command line.
QEMU_ROMS="bios-256k.bin bios-microvm.bin linuxboot_dma.bin kvmvapic.bin pvh.bin"

# What each part must hold to count as present.
guest_part_files() {
    case $1 in
    kernel) echo vmlinux VERSION $(printf 'modules/%s.ko ' $GUEST_MODULES) ;;
    opensbi) echo fw_dynamic.bin fw_jump.bin ;;
    pc-kernel) echo vmlinuz VERSION $(printf 'modules/%s.ko ' $GUEST_MODULES $PC_MODULES) \
        $(printf 'lab-modules/%s.ko ' $LAB_MODULES) ;;
    busybox | pc-busybox) echo busybox ;;
    lab-qemu) echo qemu-system-x86_64 $(printf 'roms/%s ' $QEMU_ROMS) lib/ld.so VERSION ;;
    esac
}
GUEST_PARTS="kernel opensbi busybox"
# For machine pc, which only x86-64 hosts have, and for its laboratory.
if [ "$(uname -m)" = x86_64 ]; then
    PC_PARTS="pc-kernel pc-busybox"
    LAB_PARTS=lab-qemu
fi

guest_part_arch() {
    case $1 in
    pc-* | lab-*) echo amd64 ;;
    *) echo riscv64 ;;
    esac
}

# Whether this host's KVM does; as scripts/lib/gwlab/kvm.py judges it. Else the demo wants a laboratory.
runs_stock_kernels() {
    [ -r /dev/kvm ] && [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo
}

# The parts that $PURPOSE wants; the demo moves one machine, the tests both.
guest_parts_wanted() {
    case $PURPOSE in
    demo) echo "$GUEST_PARTS" ;;
    demo-pc) echo "$GUEST_PARTS ${PC_PARTS:-}$(runs_stock_kernels || echo " ${LAB_PARTS:-}")" ;;
    *) echo "$GUEST_PARTS ${PC_PARTS:-} ${LAB_PARTS:-}" ;;
    esac
}

guest_part_present() {
    local file
    for file in $(guest_part_files "$1"); do
        [ -s "$CACHE/guest/$1/$file" ] || return 1
    done
}

guest_parts_missing() {
    local part
    for part in ${1:-$(guest_parts_wanted)}; do
        guest_part_present "$part" || echo "$part"
    done
}

# deb_extract DEB DIR PATTERN...: unpack only the members that match.
deb_extract() {
    local deb=$1 dir=$2
    shift 2
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" --wildcards --no-same-owner "$@"
}

# unpack_linux DEB DIR NAME MODULE...: the kernel as NAME, the modules beside it.
unpack_linux() {
    local deb=$1 dir=$2 name=$3 module
    local patterns=(./boot/vmlinu[xz]-*)
    shift 3
    for module in "$@"; do
        patterns+=("*/$module.ko*")
    done
    deb_extract "$deb" "$dir" "${patterns[@]}"
    mv "$dir"/boot/vmlinu[xz]-* "$dir/$name"
    mkdir "$dir/modules"
    find "$dir" -path "$dir/modules" -prune -o -name '*.ko*' -print | while read -r module; do
        mv "$module" "$dir/modules/"
    done
    if ls "$dir"/modules/*.xz >/dev/null 2>&1; then
        xz -d "$dir"/modules/*.xz
    fi
    find "$dir" -mindepth 1 -maxdepth 1 -type d ! -name modules -exec rm -rf {} +
    dpkg-deb -f "$deb" Package | sed 's/^linux-image-//' >"$dir/VERSION"
}

unpack_kernel() {
    unpack_linux "$1" "$2" vmlinux $GUEST_MODULES
}

unpack_pc-kernel() {
    local dir=$2 module
    unpack_linux "$1" "$dir" vmlinuz $(printf '%s\n' $GUEST_MODULES $PC_MODULES $LAB_MODULES | sort -u)
    mkdir "$dir/lab-modules"
    for module in $LAB_MODULES; do
        case " $GUEST_MODULES $PC_MODULES " in
        *" $module "*) cp "$dir/modules/$module.ko" "$dir/lab-modules/" ;;
        *) mv "$dir/modules/$module.ko" "$dir/lab-modules/" ;;
        esac
    done
}

unpack_opensbi() {
    deb_extract "$1" "$2" '*/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin' \
        '*/riscv64-linux-gnu/opensbi/generic/fw_jump.bin'
    find "$2" -name 'fw_*.bin' -type f -exec mv {} "$2/" \;
    find "$2" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
}

unpack_busybox() {
    deb_extract "$1" "$2" './bin/busybox' './usr/bin/busybox' 2>/dev/null || true
    find "$2" -name busybox -type f -exec mv {} "$2/busybox.bin" \;
    find "$2" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
    mv "$2/busybox.bin" "$2/busybox"
}

unpack_pc-busybox() {
    unpack_busybox "$@"
}

# The emulator of the laboratory's hosts with its own libraries, the C library and the loader among
# them: it is of the guests' Debian, not of this machine's, and is never installed.
unpack_lab-qemu() {
    local dir=$2 apt=$3 root="$2/root" rom library deb
    mkdir -p "$dir/debs/partial" "$root" "$dir/lib" "$dir/roms"
    private_apt "$apt" apt-get install -q -y -d -o Debug::NoLocking=true \
        -o Dir::Cache::archives="$dir/debs" "$(dpkg-deb -f "$1" Package)" >"$dir/log" 2>&1 || {
        tail -n 3 "$dir/log" >&2
        return 1
    }
    for deb in "$dir"/debs/*.deb; do
        dpkg-deb -x "$deb" "$root" || return 1
    done
    mv "$root/usr/bin/qemu-system-x86_64" "$dir/"
    for rom in $QEMU_ROMS; do
        find "$root/usr/share/qemu" "$root/usr/share/seabios" -name "$rom" -type f -exec cp {} "$dir/roms/" \;
    done
    library=$root/usr/lib/x86_64-linux-gnu
    cp -L "$library/ld-linux-x86-64.so.2" "$dir/lib/ld.so"
    "$dir/lib/ld.so" --library-path "$library" --list "$dir/qemu-system-x86_64" |
        sed -n 's/.* => \(.*\) (0x.*/\1/p' | grep -v '/ld' | xargs cp -L -t "$dir/lib/"
    rm -rf "$root" "$dir/debs" "$dir/log"
    "$dir/lib/ld.so" --library-path "$dir/lib" "$dir/qemu-system-x86_64" --version >"$dir/VERSION"
}

# kernel_package APT-DIR META: the package with the version in its name that META depends on.
kernel_package() {
    private_apt "$1" apt-cache depends --no-recommends --no-suggests "$2" |
        sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

# The package that holds a part today; the kernel's name carries its version.
guest_part_package() {
    case $1 in
    kernel) kernel_package "$2" linux-image-riscv64 ;;
    pc-kernel) kernel_package "$2" linux-image-cloud-amd64 ;;
    opensbi) echo opensbi ;;
    busybox | pc-busybox) echo busybox-static ;;
    lab-qemu) echo qemu-system-x86 ;;
    esac
}

# guest_part_fetch PART APT-DIR WAIT-COMMAND: download, unpack and put in place one part.
guest_part_fetch() {
    local part=$1 apt=$2 package deb version final staging
    package=$(guest_part_package "$part" "$apt")
    [ -n "$package" ] || {
        echo "no package found for the guest's $part in $GUEST_SUITE" >&2
        return 1
    }
    deb=$(private_apt_download "$apt" "$package") || return 1
    version=$(dpkg-deb -f "$deb" Version)
    final="$part-${version//[:~]/_}"
    staging=$(mktemp -d "$CACHE/guest/.staging-XXXXXX")
    chmod 755 "$staging"
    "unpack_$part" "$deb" "$staging" "$apt" || return 1
    rm -rf "$(dirname "$deb")" "${CACHE:?}/guest/$final"
    mv -T "$staging" "$CACHE/guest/$final"
    ln -sfn "$final" "$CACHE/guest/.link-$part"
    mv -T "$CACHE/guest/.link-$part" "$CACHE/guest/$part"
    guest_part_present "$part"
}

# Fetch all the missing parts, those of one architecture at once.
guest_parts_fetch() {
    local arch part failed=0
    local -A of=()
    mkdir -p "$CACHE/guest"
    rm -rf "$CACHE"/guest/.staging-*
    for part in $1; do
        of[$(guest_part_arch "$part")]+=" $part"
    done
    for arch in "${!of[@]}"; do
        guest_parts_fetch_arch "$arch" "${of[$arch]}" || failed=1
    done
    return $failed
}

# The lists are fetched once for all the parts.
guest_parts_fetch_arch() {
    local arch=$1 parts=$2 apt="$CACHE/apt-guest" part failed=0
    rm -rf "$apt"
    if ! private_apt_init "$apt" "$arch" "$GUEST_SUITE"; then
        echo "cannot read Debian's $GUEST_SUITE package lists through this machine's apt sources:" >&2
        grep -hE '^(E|W|Err):' "$apt/update.log" | head -n 3 >&2
        return 1
    fi
    local -A jobs=()
    for part in $parts; do
        guest_part_fetch "$part" "$apt" &
        jobs[$part]=$!
    done
    for part in $parts; do
        if ! wait "${jobs[$part]}"; then
            echo "could not fetch the guest's $part" >&2
            failed=1
        fi
    done
    rm -rf "$apt"
    return $failed
}
