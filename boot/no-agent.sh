#!/bin/busybox sh
# /init of the boot environment of a processor that no remint-agent was built for: it says so and waits.
/bin/busybox mount -t devtmpfs dev /dev 2>/dev/null
while :; do
  echo "Remint: the boot environment has started, but it holds no remint-agent for this processor."
  echo "On the appliance, run:  remint boot build --arm64 --agent-arm64 FILE"
  /bin/busybox sleep 30
done
