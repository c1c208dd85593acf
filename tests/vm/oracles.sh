#!/bin/bash
# What the system's own tools, or the kernel in their place, say of this machine. tests/vm/inventory.rs reads it.
set -euo pipefail
mkdir -p /var/lib/oracles
cd /var/lib/oracles

hexadecimal() { od -An -v -tx1 "$1" | tr -d ' \n'; }
hexadecimal /sys/firmware/dmi/tables/smbios_entry_point > entry-point
hexadecimal /sys/firmware/dmi/tables/DMI > table

lsblk --nodeps --json --bytes --output NAME,TYPE,SIZE,LOG-SEC,ROTA,RM,MODEL,SERIAL,WWN,TRAN > lsblk.json

lsblk --list --json --bytes --output NAME,TYPE,START,SIZE,FSTYPE,LABEL,MOUNTPOINT > partitions.json

# As `lspci -xxx` writes it and `lspci -F` reads it.
for device in /sys/bus/pci/devices/*; do
    echo "${device##*/} device"
    od -Ax -v -tx1 -w16 -N256 "$device/config" | sed -n 's/^0000\(..\) /\1: /p'
    echo
done > pci

dpkg-query --show --showformat '${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n' > dpkg
