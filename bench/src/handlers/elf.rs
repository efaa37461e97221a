//! The smallest possible handlers: one page, no library, no start-up code, two or three system
//! calls.
//!
//! The benchmark measures the launcher, so the program must cost next to nothing. Even an empty
//! static C program spends more on its start-up than a good launcher on starting it. Compiled code
//! would also depend on the compiler. On x86-64 the machine code is therefore written out here.
//! Elsewhere a C compiler makes a static program with the same system calls.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::write_executable;

#[derive(Clone, Copy, Debug)]
pub(super) enum Program {
    /// Writes the answer and exits.
    Tiny,
    /// Writes the answer, reads one byte or the end of file, exits.
    Gate,
    /// Receives one datagram on descriptor 0, returns it to its sender and exits. If descriptor 0
    /// is a pipe (with ncat) it reads from there and writes to descriptor 1.
    Datagram,
    /// Reads up to a piece that ends with a newline, or to the end of file; writes how many bytes it has read, as
    /// eight bytes, and exits.
    Sink,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Gate => "gate",
            Self::Datagram => "datagram",
            Self::Sink => "sink",
        }
    }

    #[rustfmt::skip]
    const fn x86_64(self) -> &'static [u8] {
        match self {
            Self::Tiny => &[
                0xb8, 0x01, 0x00, 0x00, 0x00,                   // mov  eax, 1 (write)
                0xbf, 0x01, 0x00, 0x00, 0x00,                   // mov  edi, 1
                0x48, 0x8d, 0x35, 0x10, 0x00, 0x00, 0x00,       // lea  rsi, [rip+answer]
                0xba, 0x03, 0x00, 0x00, 0x00,                   // mov  edx, 3
                0x0f, 0x05,                                     // syscall
                0xb8, 0x3c, 0x00, 0x00, 0x00,                   // mov  eax, 60 (exit)
                0x31, 0xff,                                     // xor  edi, edi
                0x0f, 0x05,                                     // syscall
                b'o', b'k', b'\n',                              // answer:
            ],
            Self::Gate => &[
                0xb8, 0x01, 0x00, 0x00, 0x00,                   // mov  eax, 1 (write)
                0xbf, 0x01, 0x00, 0x00, 0x00,                   // mov  edi, 1
                0x48, 0x8d, 0x35, 0x1e, 0x00, 0x00, 0x00,       // lea  rsi, [rip+answer]
                0xba, 0x03, 0x00, 0x00, 0x00,                   // mov  edx, 3
                0x0f, 0x05,                                     // syscall
                0x31, 0xc0,                                     // xor  eax, eax (read)
                0x31, 0xff,                                     // xor  edi, edi
                0x48, 0x89, 0xe6,                               // mov  rsi, rsp
                0xba, 0x01, 0x00, 0x00, 0x00,                   // mov  edx, 1
                0x0f, 0x05,                                     // syscall
                0xb8, 0x3c, 0x00, 0x00, 0x00,                   // mov  eax, 60 (exit)
                0x31, 0xff,                                     // xor  edi, edi
                0x0f, 0x05,                                     // syscall
                b'o', b'k', b'\n',                              // answer:
            ],
            Self::Datagram => &[
                0x48, 0x81, 0xec, 0x00, 0x08, 0x00, 0x00,       // sub  rsp, 2048
                0xc7, 0x84, 0x24, 0x00, 0x04, 0x00, 0x00,
                0x80, 0x00, 0x00, 0x00,                         // mov  dword [rsp+1024], 128
                0xb8, 0x2d, 0x00, 0x00, 0x00,                   // mov  eax, 45 (recvfrom)
                0x31, 0xff,                                     // xor  edi, edi
                0x48, 0x89, 0xe6,                               // mov  rsi, rsp
                0xba, 0x00, 0x04, 0x00, 0x00,                   // mov  edx, 1024
                0x45, 0x31, 0xd2,                               // xor  r10d, r10d
                0x4c, 0x8d, 0x84, 0x24, 0x10, 0x04, 0x00, 0x00, // lea  r8, [rsp+1040]
                0x4c, 0x8d, 0x8c, 0x24, 0x00, 0x04, 0x00, 0x00, // lea  r9, [rsp+1024]
                0x0f, 0x05,                                     // syscall
                0x48, 0x85, 0xc0,                               // test rax, rax
                0x78, 0x16,                                     // js   pipe
                0x48, 0x89, 0xc2,                               // mov  rdx, rax
                0xb8, 0x2c, 0x00, 0x00, 0x00,                   // mov  eax, 44 (sendto)
                0x31, 0xff,                                     // xor  edi, edi
                0x44, 0x8b, 0x8c, 0x24, 0x00, 0x04, 0x00, 0x00, // mov  r9d, [rsp+1024]
                0x0f, 0x05,                                     // syscall
                0xeb, 0x1a,                                     // jmp  end
                0x31, 0xc0,                                     // pipe: xor eax, eax (read)
                0x31, 0xff,                                     // xor  edi, edi
                0xba, 0x00, 0x04, 0x00, 0x00,                   // mov  edx, 1024
                0x0f, 0x05,                                     // syscall
                0x48, 0x89, 0xc2,                               // mov  rdx, rax
                0xb8, 0x01, 0x00, 0x00, 0x00,                   // mov  eax, 1 (write)
                0xbf, 0x01, 0x00, 0x00, 0x00,                   // mov  edi, 1
                0x0f, 0x05,                                     // syscall
                0xb8, 0x3c, 0x00, 0x00, 0x00,                   // end: mov eax, 60 (exit)
                0x31, 0xff,                                     // xor  edi, edi
                0x0f, 0x05,                                     // syscall
            ],
            Self::Sink => &[
                0x48, 0x81, 0xec, 0x00, 0x00, 0x02, 0x00,       // sub  rsp, 131072
                0x45, 0x31, 0xe4,                               // xor  r12d, r12d
                0x31, 0xc0,                                     // next: xor eax, eax (read)
                0x31, 0xff,                                     // xor  edi, edi
                0x48, 0x89, 0xe6,                               // mov  rsi, rsp
                0xba, 0x00, 0x00, 0x02, 0x00,                   // mov  edx, 131072
                0x0f, 0x05,                                     // syscall
                0x48, 0x85, 0xc0,                               // test rax, rax
                0x7e, 0x0a,                                     // jle  end
                0x49, 0x01, 0xc4,                               // add  r12, rax
                0x80, 0x7c, 0x04, 0xff, 0x0a,                   // cmp  byte [rsp+rax-1], '\n'
                0x75, 0xe3,                                     // jne  next
                0x41, 0x54,                                     // end: push r12
                0xb8, 0x01, 0x00, 0x00, 0x00,                   // mov  eax, 1 (write)
                0xbf, 0x01, 0x00, 0x00, 0x00,                   // mov  edi, 1
                0x48, 0x89, 0xe6,                               // mov  rsi, rsp
                0xba, 0x08, 0x00, 0x00, 0x00,                   // mov  edx, 8
                0x0f, 0x05,                                     // syscall
                0xb8, 0x3c, 0x00, 0x00, 0x00,                   // mov  eax, 60 (exit)
                0x31, 0xff,                                     // xor  edi, edi
                0x0f, 0x05,                                     // syscall
            ],
        }
    }

    const fn c_source(self) -> &'static str {
        match self {
            Self::Tiny => "int main(void) { return write(1, \"ok\\n\", 3) != 3; }",
            Self::Gate => {
                "int main(void) { char c; if (write(1, \"ok\\n\", 3) != 3) return 1;
                 return read(0, &c, 1) < 0; }"
            }
            Self::Datagram => {
                "int main(void) { char b[1024]; struct sockaddr_storage a; socklen_t l = sizeof a;
                 ssize_t n = recvfrom(0, b, sizeof b, 0, (void *)&a, &l);
                 if (n >= 0) return sendto(0, b, n, 0, (void *)&a, l) != n;
                 n = read(0, b, sizeof b); return write(1, b, n) != n; }"
            }
            Self::Sink => {
                "int main(void) { static char b[131072]; unsigned long long all = 0; ssize_t n;
                 while ((n = read(0, b, sizeof b)) > 0) { all += n; if (b[n - 1] == '\\n') break; }
                 unsigned char c[8]; for (int i = 0; i < 8; i++) c[i] = all >> 8 * i;
                 return write(1, c, 8) != 8; }"
            }
        }
    }
}

pub(super) fn build(program: Program, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(program.name());
    if cfg!(target_arch = "x86_64") {
        write_executable(&path, &image(program.x86_64()))
    } else {
        compile(program.c_source(), &path)
    }
}

const HEADERS: usize = 64 + 56;
const LOAD_ADDRESS: u64 = 0x40_0000;
const ENTRY: u64 = LOAD_ADDRESS + HEADERS as u64;

/// An ELF file with one segment, readable and executable: elf(5).
fn image(code: &[u8]) -> Vec<u8> {
    let size = (HEADERS + code.len()) as u64;
    let mut image = Vec::with_capacity(HEADERS + code.len());
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64 bits, little-endian, System V
    for half in [2_u16, 62] {
        image.extend(half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    image.extend(1_u32.to_le_bytes()); // EV_CURRENT
    for word in [ENTRY, 64, 0] {
        image.extend(word.to_le_bytes()); // entry, program headers, no section headers
    }
    image.extend(0_u32.to_le_bytes()); // flags
    for half in [64_u16, 56, 1, 0, 0, 0] {
        image.extend(half.to_le_bytes()); // sizes and counts of the headers
    }
    for half in [1_u32, 5] {
        image.extend(half.to_le_bytes()); // PT_LOAD, PF_R | PF_X
    }
    for word in [0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000] {
        image.extend(word.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    image.extend_from_slice(code);
    image
}

fn compile(source: &str, path: &Path) -> Result<PathBuf> {
    let file = path.with_extension("c");
    let includes = "#include <sys/socket.h>\n#include <unistd.h>\n";
    std::fs::write(&file, format!("{includes}{source}\n"))?;
    let status = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .args([path, &file])
        .status()
        .context("this architecture needs a C compiler, cc, for the tiny handlers")?;
    if !status.success() {
        bail!("cc could not make {}", path.display());
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_length_that_the_entry_assumes() {
        assert_eq!(image(&[]).len(), HEADERS);
    }

    #[test]
    fn the_c_programs_do_the_same() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let sink = compile(Program::Sink.c_source(), &folder.path().join("sink"))?;
        let counted = Command::new(sink)
            .stdin(std::process::Stdio::null())
            .output()?;
        assert_eq!(counted.stdout, 0_u64.to_le_bytes());
        for program in [Program::Tiny, Program::Gate] {
            let path = compile(program.c_source(), &folder.path().join(program.name()))?;
            let output = Command::new(path)
                .stdin(std::process::Stdio::null())
                .output()?;
            assert_eq!(output.stdout, super::super::ANSWER);
        }
        Ok(())
    }
}
