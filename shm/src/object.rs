//! The POSIX object of a shared segment: making it, finding it, and not trusting it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::Mode;
use shared_memory::{ShmemConf, ShmemError};

use crate::core::{Core, now_ms};
use crate::error::SegmentError;
use crate::layout::{
    self, CONSTANT_WORDS, FRAME_BYTES, FRAME_TABLE, FRAME_WORDS, MAX_SIZE, MIN_SIZE, fixed_frames, header,
};
use crate::memory::Memory;
use crate::segment_name;

/// Where Linux shows POSIX shared-memory objects.
const FOLDER: &str = "/dev/shm";
const MODE: u32 = 0o600;

/// What is at a segment's name.
pub(crate) enum Found {
    /// A segment.
    Segment(Core),
    /// Nothing.
    Nothing,
    /// Something else, with the descriptor if it could be opened.
    Bad(Option<File>, String),
}

/// Rounds a size to what a segment can have, bytes.
pub(crate) fn round(size: u64) -> u64 {
    size.clamp(MIN_SIZE, MAX_SIZE) / FRAME_BYTES * FRAME_BYTES
}

pub(crate) fn path(base_id: u32) -> PathBuf {
    PathBuf::from(format!("{FOLDER}{}", segment_name(base_id)))
}

/// Looks at what is there and attaches to it if it can be trusted. `any_owner` lets root read what others own.
pub(crate) fn find(base_id: u32, any_owner: bool) -> Result<Found, SegmentError> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = match shm_open(segment_name(base_id).as_str(), flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(nix::Error::ENOENT) => return Ok(Found::Nothing),
        Err(error) => return unopened(base_id, error),
    };
    let about = |error| SegmentError::io("cannot examine the shared-memory segment", error);
    let metadata = file.metadata().map_err(about)?;
    let own = nix::unistd::geteuid();
    if metadata.uid() != own.as_raw() && !(any_owner && own.is_root()) {
        return Err(SegmentError::Foreign { base_id, uid: metadata.uid() });
    }
    let bad = |file, why: String| Ok(Found::Bad(Some(file), why));
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() || mode != MODE {
        return bad(file, format!("it has mode {mode:04o} instead of {MODE:04o}"));
    }
    let mut words = [0; CONSTANT_WORDS + 1];
    // Its creator publishes the magic last; one that has died before will not.
    let ready = crate::lock::wait(|| {
        words = first_words(&file).unwrap_or_default();
        Ok(words[header::MAGIC] != 0)
    });
    if ready.is_err() {
        return bad(file, "nobody has finished making it".to_owned());
    }
    let size = file.metadata().map_err(about)?.len();
    if let Err(why) = check(&words, size) {
        return bad(file, why);
    }
    let Ok(map) = ShmemConf::new().os_id(segment_name(base_id)).open() else {
        return Ok(Found::Nothing);
    };
    if map.len() as u64 != size {
        return bad(file, "its size changes".to_owned());
    }
    // What is behind the name may have been exchanged since it was opened.
    let Some(memory) = Memory::shared(map, file) else { return Ok(Found::Nothing) };
    let core = Core::new(memory);
    if core.load(header::SEGMENT_ID) != words[header::SEGMENT_ID] {
        return Ok(Found::Nothing);
    }
    if let Err(why) = check_tables(&core) {
        let file = core.memory.file().and_then(|file| file.try_clone().ok());
        return Ok(Found::Bad(file, why.to_owned()));
    }
    Ok(Found::Segment(core))
}

/// What cannot be opened: of another user, or no object at all.
fn unopened(base_id: u32, error: nix::Error) -> Result<Found, SegmentError> {
    let metadata = fs::symlink_metadata(path(base_id)).ok();
    let own = nix::unistd::geteuid().as_raw();
    match metadata {
        Some(metadata) if metadata.uid() != own => {
            Err(SegmentError::Foreign { base_id, uid: metadata.uid() })
        }
        Some(metadata) if error == nix::Error::EACCES => Ok(Found::Bad(
            None,
            format!("it has mode {:04o} instead of {MODE:04o}", metadata.mode() & 0o7777),
        )),
        Some(metadata) if !metadata.is_file() || metadata.file_type().is_socket() => {
            Ok(Found::Bad(None, "it is not a shared-memory object".to_owned()))
        }
        _ => Err(SegmentError::io("cannot open the shared-memory segment", error)),
    }
}

/// The constant part of the header, read without touching the mapping.
fn first_words(file: &File) -> io::Result<[u64; CONSTANT_WORDS + 1]> {
    let mut bytes = [0; (CONSTANT_WORDS + 1) * 8];
    file.read_exact_at(&mut bytes, 0)?;
    let mut words = [0; CONSTANT_WORDS + 1];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    Ok(words)
}

fn check(words: &[u64; CONSTANT_WORDS + 1], size: u64) -> Result<(), String> {
    if words[header::MAGIC] != layout::MAGIC {
        return Err("it is no segment of this program".to_owned());
    }
    let version = words[header::LAYOUT_VERSION];
    if version != u64::from(crate::LAYOUT_VERSION) {
        return Err(format!("its layout is version {version}, this program's is {}", crate::LAYOUT_VERSION));
    }
    if words[header::CHECKSUM] != layout::checksum(words[..CONSTANT_WORDS].iter().copied()) {
        return Err("its header is corrupt".to_owned());
    }
    if words[header::SIZE] != size || size != round(size) {
        return Err(format!("it has {size} bytes instead of {}", words[header::SIZE]));
    }
    Ok(())
}

/// Checks what a writer will rely on. Records are checked when they are read.
fn check_tables(core: &Core) -> Result<(), &'static str> {
    let fixed = fixed_frames(core.frames);
    let sane = (0..core.frames).all(|frame| {
        let owner = crate::frames::Owner::decode(core.frame_word(frame));
        owner.is_some() && (owner == Some(crate::frames::Owner::Fixed)) == (frame < fixed)
    });
    if !sane {
        return Err("its frame table is corrupt");
    }
    if !core.has_sane_processes() {
        return Err("its process table is corrupt");
    }
    if !core.has_sane_directory() {
        return Err("its directory is corrupt");
    }
    Ok(())
}

/// Makes sure that every frame that claims to have memory has it.
pub(crate) fn reserve_again(core: &Core) -> Result<(), SegmentError> {
    for frame in 0..core.frames {
        if core.frame_word(frame) & crate::frames::RESERVED != 0 {
            reserve(core, frame * FRAME_WORDS, FRAME_WORDS)?;
        }
    }
    Ok(())
}

fn reserve(core: &Core, first: usize, words: usize) -> Result<(), SegmentError> {
    core.memory.reserve(first, words).map_err(|error| {
        SegmentError::io(format!("there is no memory for the shared-memory segment in {FOLDER}"), error)
    })
}

/// Makes a segment. `None` if something is there, or comes in between.
pub(crate) fn create(base_id: u32, size: u64) -> Result<Option<Core>, SegmentError> {
    create_named(&segment_name(base_id), size, 0, now_ms())
}

/// Makes a segment beside the one of this base id, to take its place later; its name.
pub(crate) fn create_apart(
    base_id: u32,
    size: u64,
    generations: u64,
    first_started_ms: u64,
) -> Result<(Core, PathBuf), SegmentError> {
    let prefix = format!("{}.next-", segment_name(base_id));
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(&prefix[1..])).map(str::parse);
        // Whoever made it has failed and could not tidy up any more.
        if let Some(Ok(pid)) = pid
            && (pid == std::process::id() || !crate::processes::runs(pid))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    let name = format!("{prefix}{}", std::process::id());
    let first_started_ms = if first_started_ms == 0 { now_ms() } else { first_started_ms };
    let core = create_named(&name, size, generations, first_started_ms)?.ok_or(SegmentError::Busy)?;
    Ok((core, PathBuf::from(format!("{FOLDER}{name}"))))
}

fn create_named(
    name: &str,
    size: u64,
    generations: u64,
    first_started_ms: u64,
) -> Result<Option<Core>, SegmentError> {
    let size = round(size);
    let bytes = usize::try_from(size).map_err(|_| SegmentError::Full { what: "a segment of that size" })?;
    let mut map = match ShmemConf::new().os_id(name).size(bytes).create() {
        Ok(map) => map,
        Err(ShmemError::MappingIdExists) => return Ok(None),
        Err(error) => {
            return Err(SegmentError::io("cannot make the shared-memory segment", io::Error::other(error)));
        }
    };
    // It outlives whoever made it.
    map.set_owner(false);
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let Ok(descriptor) = shm_open(name, flags, Mode::empty()) else {
        return Ok(None);
    };
    let file = File::from(descriptor);
    // The mode that was asked for has passed the umask.
    file.set_permissions(fs::Permissions::from_mode(MODE))
        .map_err(|error| SegmentError::io("cannot set the mode of the shared-memory segment", error))?;
    let Some(memory) = Memory::shared(map, file) else { return Ok(None) };
    let core = Core::new(memory);
    let fixed = fixed_frames(core.frames) * FRAME_WORDS;
    if let Err(error) = reserve(&core, 0, fixed) {
        let _ = shm_unlink(name);
        return Err(error);
    }
    debug_assert!(FRAME_TABLE < fixed);
    let segment_id = random();
    core.initialise(segment_id, first_started_ms);
    core.store(header::GENERATIONS, generations);
    // If the name was given to another object between the two openings, this one has no descriptor.
    let ours = core.memory.file().and_then(|file| first_words(file).ok());
    if ours.is_none_or(|words| words[header::SEGMENT_ID] != segment_id) {
        return Ok(None);
    }
    core.publish();
    Ok(Some(core))
}

/// Renames what is there, so that it can be looked at, and returns a sentence about it. `None` if somebody else was
/// faster. The one that was set aside before is removed.
pub(crate) fn set_aside(
    base_id: u32,
    file: Option<&File>,
    why: &str,
) -> Result<Option<String>, SegmentError> {
    let failed = |error| SegmentError::io("cannot set aside the shared-memory segment", error);
    if let Some(file) = file {
        // Of several processes that find it bad, one renames it; the others see that the name has gone on.
        crate::lock::of_object(file)?;
        let (bad, named) = (file.metadata().map_err(failed)?, fs::symlink_metadata(path(base_id)).ok());
        if named.is_none_or(|named| (named.dev(), named.ino()) != (bad.dev(), bad.ino())) {
            crate::lock::release(file);
            return Ok(None);
        }
    }
    let prefix = format!("{}.bad-", &segment_name(base_id)[1..]);
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let target = format!("{FOLDER}/{prefix}{}", now_ms());
    let renamed = fs::rename(path(base_id), &target);
    if let Some(file) = file {
        crate::lock::release(file);
    }
    match renamed {
        Ok(()) => Ok(Some(format!(
            "the shared-memory segment with base id {base_id} cannot be used: {why}; it is kept as {target}, \
             and counting starts from zero"
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn unlink(base_id: u32) -> io::Result<()> {
    Ok(shm_unlink(segment_name(base_id).as_str())?)
}

/// A number that no other segment has, as good as certainly.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
