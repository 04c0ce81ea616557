#!/usr/bin/env bash
# The tile engine on an emulated processor with AMX: Linux on Bochs's Sapphire Rapids, and in it check.py.
#
#     sudo tests/amx/emulate.sh FOLDER [medium|high ...]     # on Debian or Ubuntu; 6 GB, half an hour
#
# Bochs has no XFD, by which Linux gives tile registers to programs that ask for them; so the kernel built here
# gives them to every program. What this shows is arithmetic, detection and permission, not time.
set -euo pipefail
work=$(mkdir -p "$1" && cd "$1" && pwd); shift
here=$(cd "$(dirname "$0")" && pwd)
system=$work/system

command -v debootstrap >/dev/null || apt-get install -y debootstrap
[ -e "$system/venv" ] || {
  debootstrap --variant=minbase trixie "$system" http://deb.debian.org/debian
  chroot "$system" apt-get install -y -qq --no-install-recommends python3-venv busybox-static bochs bochs-term bochsbios vgabios \
    grub-pc-bin grub-common xorriso mtools bsdutils build-essential flex bison bc libelf-dev libssl-dev linux-source-6.12 xz-utils
  chroot "$system" python3 -m venv /venv
}
rm -rf "$system/project" && mkdir -p "$system/project" "$system/emulation"
(cd "$here/../.." && git archive HEAD) | tar -x -C "$system/project"
cp "$here/check.py" "$system/emulation/"
rm -rf "$system/wheels"
python3 -m pip wheel --quiet --no-deps --wheel-dir "$system/wheels" "$system/project"
python3 -m pip download --quiet --only-binary :all: --python-version 3.13 --platform manylinux_2_28_x86_64 \
  --platform manylinux2014_x86_64 --dest "$system/wheels" "$system/wheels/"charlstm-*.whl
chroot "$system" /usr/bin/env -i PATH=/usr/bin:/bin /venv/bin/pip install --quiet --no-index --find-links /wheels charlstm

echo "== the kernel"
[ -e "$system/emulation/iso/boot/vmlinuz" ] || chroot "$system" bash -euo pipefail <<'KERNEL'
cd /usr/src && tar -xf linux-source-6.12.tar.xz && cd linux-source-6.12
sed -i 's/^#define XFEATURE_MASK_USER_DYNAMIC.*/#define XFEATURE_MASK_USER_DYNAMIC 0ULL/' arch/x86/include/asm/fpu/xstate.h
sed -i '/BUILD_BUG_ON(XFEATURE_MASK_USER_DYNAMIC/d' arch/x86/kernel/fpu/core.c
sed -i 's/__padding\[PAGE_SIZE\]/__padding[PAGE_SIZE * 4]/' arch/x86/include/asm/fpu/types.h
make -s tinyconfig
for option in 64BIT PRINTK TTY SERIAL_8250 SERIAL_8250_CONSOLE BINFMT_ELF BINFMT_SCRIPT DEVTMPFS DEVTMPFS_MOUNT PROC_FS SYSFS \
  TMPFS SHMEM PCI BLOCK BLK_DEV ATA ATA_SFF ATA_BMDMA ATA_PIIX SCSI BLK_DEV_SD EXT2_FS FUTEX EPOLL EVENTFD SIGNALFD TIMERFD \
  POSIX_TIMERS HIGH_RES_TIMERS MULTIUSER FILE_LOCKING ADVISE_SYSCALLS MEMBARRIER RSEQ CPU_SUP_INTEL KALLSYMS NET UNIX; do
  ./scripts/config -e "$option"
done
yes "" | make -s olddefconfig >/dev/null || true
make -s -j"$(nproc)" bzImage
mkdir -p /emulation/iso/boot/grub && cp arch/x86/boot/bzImage /emulation/iso/boot/vmlinuz
cat > /emulation/iso/boot/grub/grub.cfg <<'GRUB'
set timeout=0
menuentry linux {
  linux /boot/vmlinuz console=ttyS0 nokaslr root=/dev/sda rootfstype=ext2 rw init=/init lpj=4000000 no_timer_check tsc=reliable panic=5 acpi=off
}
GRUB
grub-mkrescue -o /emulation/boot.iso /emulation/iso
rm -rf /usr/src/linux-source-6.12
KERNEL

echo "== the disk"
cat > "$system/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t tmpfs tmp /tmp
export HOME=/root PATH=/bin:/usr/bin OPENBLAS_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell CHARLSTM_NUM_THREADS=1 NUMBA_CACHE_DIR=/tmp/numba
/venv/bin/python -u /emulation/check.py $* > /dev/ttyS0 2>&1
echo "== ended with \$?" > /dev/ttyS0
/bin/busybox sleep 1
/bin/busybox poweroff -f
INIT
chmod +x "$system/init"
rm -f "$work/disk.img" "$system/emulation/disk.img"
mke2fs -q -t ext2 -d "$system" "$work/disk.img" 4G
mv "$work/disk.img" "$system/emulation/disk.img"
cat > "$system/emulation/bochsrc" <<'BOCHS'
display_library: term
memory: guest=2048, host=2048
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=/emulation/disk.img, mode=flat
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path=/emulation/boot.iso, status=inserted
cpu: model=sapphire_rapids, count=1, ips=80000000, ignore_bad_msrs=1, exclude_features="waitpkg"
clock: sync=none
com1: enabled=1, mode=file, dev=/emulation/serial.txt
log: /emulation/bochs.log
BOCHS

echo "== the emulated processor; what it prints comes in pieces of a few kilobytes"
echo c > "$system/emulation/rc"
rm -f "$system/emulation/"{serial.txt,disk.img.lock}
script -qfc "chroot $system /usr/bin/env TERM=xterm bochs -q -f /emulation/bochsrc -rc /emulation/rc" /dev/null >/dev/null </dev/null &
bochs=$!
while kill -0 $bochs 2>/dev/null && ! grep -aq "== ended" "$system/emulation/serial.txt" 2>/dev/null; do sleep 5; done
kill $bochs 2>/dev/null || true
grep -a -A100 "cpu flags" "$system/emulation/serial.txt"
grep -aq "== ended with 0" "$system/emulation/serial.txt"
