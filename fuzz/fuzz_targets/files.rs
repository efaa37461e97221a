//! Foreign files that skd reads: the interpreter that a program names (execve(2), elf(5)), the process that a pid
//! file names, and the variables of a file.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use skd::child::program::interpreter;
use skd::config::environment_file;
use skd::setup::pidfile::owner;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Program(&'a [u8]),
    Elf(Headers, &'a [u8]),
    PidFile(&'a [u8]),
    Variables(&'a [u8]),
}

/// ELF headers, which mutations would rarely get right.
#[derive(Arbitrary, Debug)]
struct Headers {
    table: u8,
    size: u16,
    count: u16,
    kind: u8,
    offset: u64,
    length: u64,
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Program(content) => program(content),
    Input::Elf(headers, content) => program(&elf(&headers, content)),
    Input::PidFile(content) => pidfile(content),
    Input::Variables(content) => variables(content),
});

fn elf(headers: &Headers, content: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[32..40].copy_from_slice(&u64::from(headers.table).to_ne_bytes());
    image[54..56].copy_from_slice(&headers.size.to_ne_bytes());
    image[56..58].copy_from_slice(&headers.count.to_ne_bytes());
    image.extend_from_slice(content);
    let at = usize::from(headers.table);
    if let Some(entry) = image.get_mut(at..at + 56) {
        entry[..4].copy_from_slice(&u32::from(headers.kind % 8).to_ne_bytes());
        entry[8..16].copy_from_slice(&headers.offset.to_ne_bytes());
        entry[32..40].copy_from_slice(&headers.length.to_ne_bytes());
    }
    image
}

fn program(content: &[u8]) {
    let head = &content[..content.len().min(256)];
    let mut reads = 0;
    let mut most = 0;
    let found = interpreter(head, |offset, buffer| {
        reads += 1;
        most = most.max(buffer.len());
        let start = usize::try_from(offset).ok();
        let from = start.and_then(|start| content.get(start..)?.get(..buffer.len()));
        from.is_some_and(|from| {
            buffer.copy_from_slice(from);
            true
        })
    });
    // The number and size of reads are limited, whatever the file.
    assert!(
        reads <= 1 << 16 && most <= 4096,
        "{reads} reads of up to {most} bytes"
    );
    let expected = content.starts_with(b"#!").then(|| script(head)).flatten();
    if let Some(path) = &found {
        assert!(!path.is_empty() && path.len() <= 4096 && !path.contains(&0));
        let mut windows = content.windows(path.len());
        assert!(
            windows.any(|window| window == path),
            "it stands in the file"
        );
    }
    if !content.starts_with(b"\x7fELF") {
        assert_eq!(found.as_deref(), expected);
    }
}

/// The path that the kernel's load_script() finds.
fn script(head: &[u8]) -> Option<&[u8]> {
    let mut rest = &head[2..];
    while let [b' ' | b'\t', after @ ..] = rest {
        rest = after;
    }
    let length = rest
        .iter()
        .take_while(|byte| !b" \t\n\0".contains(byte))
        .count();
    (length > 0).then_some(&rest[..length])
}

fn variables(content: &[u8]) {
    let lines = content.iter().filter(|byte| **byte == b'\n').count() + 1;
    let mut last = 1;
    for found in environment_file::parse(content) {
        assert!(last <= found.line && found.line as usize <= lines);
        last = found.line;
        assert!(found.name.len() + found.value.len() < content.len());
        match found.checked() {
            Ok((name, value)) => {
                let name = name.into_string().unwrap();
                assert!(!name.is_empty() && !name.contains(['=', '\0', '\n', ' ']));
                assert!(!value.into_string().unwrap().contains('\0'));
            }
            Err(why) => assert!(!why.is_empty() && !why.contains('\n')),
        }
    }
}

fn pidfile(content: &[u8]) {
    let found = owner(content);
    if let Some(pid) = found {
        assert!(pid > 0);
        assert_eq!(owner(format!("{pid}\n").as_bytes()), found);
        let digits = content.trim_ascii();
        assert!(digits.iter().all(u8::is_ascii_digit));
    }
}
