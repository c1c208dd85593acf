//! exFAT: boot sector, and the allocation bitmap that its root folder names (Microsoft, "exFAT file system specification").

use super::ext4::add_marked;
use super::ranges::Ranges;
use super::{Fault, Map};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

/// The root folder's entry of the bitmap comes first in practice; looked for in this many clusters at most.
const ROOT_CLUSTERS_MAX: usize = 1024;
/// Clusters are at most 32 MiB (section 3.1.15).
const CLUSTER_SHIFT_MAX: u8 = 25;
const ENTRY_BITMAP: u8 = 0x81;
const FLAG_DIRTY: u16 = 2;

struct Layout {
    fat_at: u64,
    heap_at: u64,
    clusters: u64,
    cluster_bytes: u64,
    root: u32,
    size: u64,
}

impl Layout {
    /// Boot sector: volume length 72, FAT offset 80, heap offset 88, clusters 92, root 96, flags 106, shifts 108 and 109,
    /// number of FATs 110.
    fn read(source: &dyn ReadAt) -> Result<Layout, Fault> {
        let bytes = source.read_vec_at(0, 512).map_err(Fault::unreadable("boot sector"))?;
        let boot = Fields(&bytes);
        let (sector, cluster) = (boot.u8(108), boot.u8(109));
        if !(9..=12).contains(&sector) || sector.saturating_add(cluster) > CLUSTER_SHIFT_MAX {
            return Err(Fault::damaged("the sizes in its boot sector make no sense"));
        }
        if boot.u8(110) != 1 {
            return Err(Fault::Unsupported("exFAT with two tables".to_owned()));
        }
        if boot.le16(106) & FLAG_DIRTY != 0 {
            return Err(Fault::Dirty);
        }
        let layout = Layout {
            fat_at: u64::from(boot.le32(80)) << sector,
            heap_at: u64::from(boot.le32(88)) << sector,
            clusters: u64::from(boot.le32(92)),
            cluster_bytes: 1 << (sector + cluster),
            root: boot.le32(96),
            size: boot.le64(72).saturating_mul(1 << sector),
        };
        let heap_end = layout.heap_at + layout.clusters * layout.cluster_bytes;
        if heap_end > layout.size || layout.size > source.size() {
            return Err(Fault::damaged("it claims to be larger than its partition"));
        }
        Ok(layout)
    }

    fn byte_of(&self, cluster: u32) -> Result<u64, Fault> {
        let index = u64::from(cluster).checked_sub(2).filter(|index| *index < self.clusters);
        let index = index.ok_or_else(|| Fault::damaged(format!("cluster {cluster} lies outside of it")))?;
        Ok(self.heap_at + index * self.cluster_bytes)
    }

    /// The cluster after `cluster` in its chain.
    fn next(&self, source: &dyn ReadAt, cluster: u32) -> Result<Option<u32>, Fault> {
        let mut entry = [0; 4];
        source.read_exact_at(&mut entry, self.fat_at + u64::from(cluster) * 4).map_err(Fault::unreadable("table"))?;
        Ok(Some(u32::from_le_bytes(entry)).filter(|next| *next < 0xFFFF_FFF7))
    }
}

/// The used ranges: everything in front of the cluster heap and behind it, and the clusters that the bitmap marks.
pub fn map(source: &dyn ReadAt) -> Result<Map, Fault> {
    let layout = Layout::read(source)?;
    let mut used = Ranges::new(layout.size);
    used.add(0, layout.heap_at);
    let heap_end = layout.heap_at + layout.clusters * layout.cluster_bytes;
    used.add(heap_end, layout.size - heap_end);
    let (mut cluster, len) = find_bitmap(source, &layout)?;
    if len < layout.clusters.div_ceil(8) {
        return Err(Fault::damaged("its bitmap is too short for its clusters"));
    }
    let (mut done, mut marked) = (0, 0);
    while done < layout.clusters {
        let at = layout.byte_of(cluster)?;
        let bits = (layout.clusters - done).min(layout.cluster_bytes * 8);
        let piece = source.read_vec_at(at, bits.div_ceil(8) as usize).map_err(Fault::unreadable("bitmap"))?;
        marked +=
            add_marked(&piece, bits, layout.heap_at + done * layout.cluster_bytes, layout.cluster_bytes, &mut used);
        done += bits;
        if done < layout.clusters {
            let next = layout.next(source, cluster)?;
            cluster = next.ok_or_else(|| Fault::damaged("its bitmap ends too early"))?;
        }
    }
    Ok(Map::new(used.finish(), (layout.clusters - marked) * layout.cluster_bytes))
}

/// First cluster and length in bytes of the allocation bitmap.
fn find_bitmap(source: &dyn ReadAt, layout: &Layout) -> Result<(u32, u64), Fault> {
    let mut cluster = layout.root;
    for _ in 0..ROOT_CLUSTERS_MAX {
        let at = layout.byte_of(cluster)?;
        let folder = source.read_vec_at(at, layout.cluster_bytes as usize).map_err(Fault::unreadable("root folder"))?;
        let entry = folder.chunks_exact(32).take_while(|entry| entry[0] != 0).find(|entry| entry[0] == ENTRY_BITMAP);
        if let Some(entry) = entry.map(Fields) {
            return Ok((entry.le32(20), entry.le64(24)));
        }
        let Some(next) = layout.next(source, cluster)? else { break };
        cluster = next;
    }
    Err(Fault::damaged("its root folder names no bitmap"))
}
