//! What machines say of themselves.

use super::{Seeds, behind};

pub fn seeds() -> Seeds {
    let one = |name: &str, bytes: Vec<u8>| vec![(name.to_owned(), bytes)];
    [
        behind(0, one("firmware", firmware())),
        behind(1, one("tpm", tpm())),
        behind(2, one("switch", switch())),
        behind(3, one("expected", b"serial,tpm_key,name,collections,deploy\nS1,,\"desk, 1\",front office,debian\n".to_vec())),
        behind(4, one("names", b"8086  Intel\n\t2922  SATA\nC 01  Storage\n\t06  SATA\n\x001d6b  Linux\n\t0002  hub\n".to_vec())),
        behind(5, one("packages", b"Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n".to_vec())),
    ]
    .concat()
}

/// One memory module, the end of the table.
fn firmware() -> Vec<u8> {
    let mut module = vec![17, 0x22, 0, 0];
    module.resize(0x22, 0);
    module[0x0C..0x0E].copy_from_slice(&8192u16.to_le_bytes());
    (module[0x10], module[0x12], module[0x17]) = (1, 0x1A, 2);
    [&module[..], b"DIMM 0\0MakerCo\0\0", &[127, 4, 0, 0, 0, 0]].concat()
}

/// No key at the maker's place; then one that was made: success, handle, parameters, an RSA key of 2048 bits.
fn tpm() -> Vec<u8> {
    let key = [&[0, 1, 0, 0x0B, 0, 3, 0, 0xB2, 0, 0, 0, 0x10, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0][..], &[0xA5; 256]].concat();
    let body = [&[0x80, 0, 0, 1, 0, 0, 1, 0x18][..], &(key.len() as u16).to_be_bytes(), &key].concat();
    let refusal = [&[0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x8B][..]].concat();
    let success = [&[0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0][..], &body].concat();
    let answer = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    [answer(refusal), answer(success)].concat()
}

fn switch() -> Vec<u8> {
    b"\x02\x07\x04\x02\x00\x00\x00\x00\x09\x04\x05\x05ge-7\x06\x02\x00\x78\x08\x04desk\x0a\x06switch\x00\x00".to_vec()
}
