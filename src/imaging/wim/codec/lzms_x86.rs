//! The x86 filter of LZMS: it runs over every chunk, and guesses by itself where machine code lies.
//!
//! Instructions that address relative to themselves are taken as code when two of them refer to the same target (by its
//! low 16 bits) within 65,535 bytes; from the second on, such instructions within the next 1,023 bytes (511 for calls) hold
//! absolute targets.

const TARGET_WINDOW: i32 = 65_535;
const CODE_REACH: i32 = 1_023;
/// Opcodes in the last 16 bytes are left alone, and so is the very first byte.
const TAIL: usize = 16;
const SHORTEST: usize = 18;

/// Undoes the filter on one decompressed chunk. `last_uses` is scratch of 65,536 entries.
pub(super) fn undo(data: &mut [u8], last_uses: &mut [i32]) {
    if data.len() < SHORTEST {
        return;
    }
    last_uses.fill(-TARGET_WINDOW - 1);
    let end = data.len() - TAIL;
    let mut last_code = -CODE_REACH - 1;
    let mut at = 1;
    while at < end {
        let Some(found) = data[at..end].iter().position(|byte| MAY_BEGIN[usize::from(*byte)]) else { break };
        at += found;
        let (opcode_bytes, reach) = match instruction(&data[at..]) {
            Instruction::Relative { opcode_bytes, reach } => (opcode_bytes, reach),
            Instruction::Jump => {
                at += 5;
                continue;
            }
            Instruction::Other => {
                at += 1;
                continue;
            }
        };
        let start = at as i32;
        let Some(field) = data.get_mut(at + opcode_bytes..).and_then(|rest| rest.first_chunk_mut::<4>()) else { break };
        if start - last_code <= reach {
            *field = i32::from_le_bytes(*field).wrapping_sub(start).to_le_bytes();
        }
        let target = (start as u16).wrapping_add(u16::from_le_bytes([field[0], field[1]]));
        at += opcode_bytes + 4;
        let last_byte = at as i32 - 1;
        let last_use = &mut last_uses[usize::from(target)];
        if last_byte - *last_use <= TARGET_WINDOW {
            last_code = last_byte;
        }
        *last_use = last_byte;
    }
}

/// Bytes that begin an instruction which the filter knows.
const MAY_BEGIN: [bool; 256] = {
    let mut table = [false; 256];
    let opcodes = [0x48, 0x4c, 0xe8, 0xe9, 0xf0, 0xff];
    let mut index = 0;
    while index < opcodes.len() {
        table[opcodes[index]] = true;
        index += 1;
    }
    table
};

enum Instruction {
    /// Four bytes of relative address follow the opcode.
    Relative {
        opcode_bytes: usize,
        reach: i32,
    },
    /// Stepped over, never translated.
    Jump,
    Other,
}

/// `code` has at least 16 bytes: opcodes in the tail are not looked at.
fn instruction(code: &[u8]) -> Instruction {
    let relative = |opcode_bytes| Instruction::Relative { opcode_bytes, reach: CODE_REACH };
    match *code {
        [0xe8, ..] => Instruction::Relative { opcode_bytes: 1, reach: CODE_REACH / 2 },
        [0xe9, ..] => Instruction::Jump,
        // call [rip + x]
        [0xff, 0x15, ..] => relative(2),
        // lock add [rip + x]
        [0xf0, 0x83, 0x05, ..] => relative(3),
        // lea r, [rip + x]; only the low bits of the third byte are looked at
        [0x48 | 0x4c, 0x8d, modrm, ..] if modrm & 7 == 5 => relative(3),
        // mov r, [rip + x], into the first two registers
        [0x48, 0x8b, 0x05 | 0x0d, ..] => relative(3),
        _ => Instruction::Other,
    }
}
