//! Block devices: what the kernel tells and does by ioctl.
#![expect(unsafe_code, reason = "ioctls of block devices and file systems have no safe wrapper")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

mod raw {
    //! Requests of <linux/fs.h>, <linux/btrfs.h>, ext4's and XFS's own headers.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), libc::c_int);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_read_bad!(blkpbszget, nix::request_code_none!(0x12, 123), libc::c_uint);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
    nix::ioctl_readwrite_bad!(blkpg, nix::request_code_none!(0x12, 105), super::Blkpg);
    nix::ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64);
    nix::ioctl_read!(xfs_geometry, b'X', 100, super::XfsGeometry);
    nix::ioctl_write_ptr!(xfs_growfsdata, b'X', 110, super::XfsGrow);
    nix::ioctl_write_ptr!(btrfs_resize, 0x94, 3, super::BtrfsVolume);
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, super::LoopConfig);
    nix::ioctl_none_bad!(loop_clr_fd, 0x4C01);
}

/// `struct loop_config` of <linux/loop.h>, with its `struct loop_info64` spelled out.
#[repr(C)]
pub struct LoopConfig {
    file: u32,
    block_bytes: u32,
    numbers: [u64; 3],
    offset: u64,
    limit_bytes: u64,
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A part of a file or device, shown by the kernel as a block device of its own until this is dropped.
pub struct LoopDevice {
    device: File,
    path: PathBuf,
}

impl LoopDevice {
    /// Shows the bytes of `range` of `path`.
    pub fn attach(path: &Path, range: Range<u64>) -> io::Result<LoopDevice> {
        const ATTEMPTS: u32 = 20;
        let open = |path: &Path| File::options().read(true).write(true).open(path);
        let (file, control) = (open(path)?, open(Path::new("/dev/loop-control"))?);
        for _ in 0..ATTEMPTS {
            // SAFETY: the descriptor is open and the request takes no argument.
            let number = unsafe { raw::loop_ctl_get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path)?;
            let config = LoopConfig {
                file: file.as_raw_fd().cast_unsigned(),
                block_bytes: 0,
                numbers: [0; 3],
                offset: range.start,
                limit_bytes: range.end - range.start,
                number: 0,
                encryption: [0; 2],
                flags: 0,
                names: [0; 160],
                init: [0; 2],
                reserved: [0; 8],
            };
            // SAFETY: both descriptors are open for the whole call, and `LoopConfig` has the layout that the kernel reads.
            match unsafe { raw::loop_configure(device.as_raw_fd(), &config) } {
                Ok(_) => return Ok(LoopDevice { device, path }),
                // Somebody else took the free one in between.
                Err(nix::errno::Errno::EBUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A device that is still in use is given up when its last user goes.
        // SAFETY: the descriptor is open and the request takes no argument.
        let _ = unsafe { raw::loop_clr_fd(self.device.as_raw_fd()) };
    }
}

/// `struct xfs_growfs_data` of <xfs/xfs_fs.h>.
#[repr(C)]
pub struct XfsGrow {
    new_blocks: u64,
    imaxpct: u32,
    padding: u32,
}

/// `struct xfs_fsop_geom_v1` of <xfs/xfs_fs.h>.
#[repr(C)]
pub struct XfsGeometry {
    block_bytes: u32,
    real_time_extent_blocks: u32,
    group_blocks: u32,
    groups: u32,
    log_blocks: u32,
    sector_bytes: u32,
    inode_bytes: u32,
    imaxpct: u32,
    rest: [u64; 10],
}

/// `struct btrfs_ioctl_vol_args` of <linux/btrfs.h>.
#[repr(C)]
pub struct BtrfsVolume {
    fd: i64,
    name: [u8; 4088],
}

/// What the kernel says of an open block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub bytes: u64,
    /// The smallest unit it reads and writes, in which its partition table counts: 512 or 4096.
    pub logical_sector_bytes: u32,
    /// The unit it writes without reading first.
    pub physical_sector_bytes: u32,
    pub read_only: bool,
}

/// The geometry of a block device; `None` for a file.
pub fn geometry(file: &File) -> io::Result<Option<Geometry>> {
    if !file.metadata()?.file_type().is_block_device() {
        return Ok(None);
    }
    let fd = file.as_raw_fd();
    let (mut bytes, mut logical, mut physical, mut read_only) = (0u64, 0, 0, 0);
    // SAFETY: the descriptor is open for the whole call and each pointer is to a live local of the type the request writes.
    unsafe {
        raw::blkgetsize64(fd, &mut bytes)?;
        raw::blksszget(fd, &mut logical)?;
        raw::blkpbszget(fd, &mut physical)?;
        raw::blkroget(fd, &mut read_only)?;
    }
    let logical_sector_bytes = logical.cast_unsigned();
    Ok(Some(Geometry { bytes, logical_sector_bytes, physical_sector_bytes: physical, read_only: read_only != 0 }))
}

/// Tells the device that `len` bytes from `offset` hold nothing any more. What they read as afterwards is the device's choice.
pub fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open and the request reads two u64 from a live array.
    unsafe { raw::blkdiscard(file.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Makes `len` bytes from `offset` read as zero, by the device's own means where it has some.
pub fn zero_out(file: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open and the request reads two u64 from a live array.
    unsafe { raw::blkzeroout(file.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Has the kernel read the partition table again. `EBUSY` while one of the old partitions is in use.
pub fn reread_partitions(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open and the request takes no argument.
    unsafe { raw::blkrrpart(file.as_raw_fd()) }?;
    Ok(())
}

/// `struct blkpg_ioctl_arg` of <linux/blkpg.h>.
#[repr(C)]
pub struct Blkpg {
    operation: libc::c_int,
    flags: libc::c_int,
    data_bytes: libc::c_int,
    data: *mut BlkpgPartition,
}

/// `struct blkpg_partition`, in bytes.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    bytes: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// Tells the kernel the new size of one partition, which it accepts of a mounted one too. All in bytes.
pub fn resize_partition(disk: &File, number: u32, start: u64, bytes: u64) -> io::Result<()> {
    const RESIZE: libc::c_int = 3;
    let number = libc::c_int::try_from(number).map_err(io::Error::other)?;
    let mut partition =
        BlkpgPartition { start: start.cast_signed(), bytes: bytes.cast_signed(), number, names: [0; 128] };
    let data_bytes = size_of::<BlkpgPartition>() as libc::c_int;
    let mut request = Blkpg { operation: RESIZE, flags: 0, data_bytes, data: &raw mut partition };
    // SAFETY: the descriptor is open, the request and the partition that it points to live to the end of the call, and
    // both have the layout that the kernel reads.
    unsafe { raw::blkpg(disk.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

/// Grows the mounted ext4 that holds `folder` to `blocks` of its own blocks (ext4's `EXT4_IOC_RESIZE_FS`).
pub fn grow_ext4(folder: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open and the request reads one u64.
    unsafe { raw::ext4_resize_fs(folder.as_raw_fd(), &blocks) }?;
    Ok(())
}

/// Grows the mounted XFS that holds `folder` to `blocks` of its own blocks and keeps its share for inodes.
pub fn grow_xfs(folder: &File, blocks: u64) -> io::Result<()> {
    let mut geometry = std::mem::MaybeUninit::<XfsGeometry>::zeroed();
    // SAFETY: the descriptor is open, the request writes one `xfs_fsop_geom_v1`, whose layout `XfsGeometry` has, and any
    // bytes, zeros included, are one.
    let imaxpct = unsafe {
        raw::xfs_geometry(folder.as_raw_fd(), geometry.as_mut_ptr())?;
        geometry.assume_init().imaxpct
    };
    let grow = XfsGrow { new_blocks: blocks, imaxpct, padding: 0 };
    // SAFETY: the descriptor is open and the request reads one `xfs_growfs_data`, whose layout `XfsGrow` has.
    unsafe { raw::xfs_growfsdata(folder.as_raw_fd(), &grow) }?;
    Ok(())
}

/// Grows the first device of the mounted btrfs that holds `folder` to all of its partition.
pub fn grow_btrfs(folder: &File) -> io::Result<()> {
    let mut volume = BtrfsVolume { fd: 0, name: [0; 4088] };
    volume.name[..3].copy_from_slice(b"max");
    // SAFETY: the descriptor is open and the request reads one `btrfs_ioctl_vol_args`, whose layout `BtrfsVolume` has.
    unsafe { raw::btrfs_resize(folder.as_raw_fd(), &volume) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_is_no_block_device() {
        assert_eq!(super::geometry(&tempfile::tempfile().unwrap()).unwrap(), None);
    }

    #[test]
    fn the_structs_have_the_kernels_sizes() {
        assert_eq!((size_of::<super::XfsGrow>(), size_of::<super::XfsGeometry>()), (16, 112));
        assert_eq!((size_of::<super::BtrfsVolume>(), size_of::<super::BlkpgPartition>()), (4096, 152));
        assert_eq!(size_of::<super::LoopConfig>(), 304);
    }
}
