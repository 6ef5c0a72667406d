//! The calls of libvirt that the `virt` crate lacks or gets wrong: lifecycle events, jobs, statistics of all
//! domains at once (its own leaks them), a domain's state (its own hides an error), backups and
//! checkpoints, limits of a disk.
//!
//! Beside them, what `rustix` lacks of packet sockets, and a word to C's allocator.
//!
//! This is the only file of Berth with `unsafe` in it.
#![allow(
    unsafe_code,
    reason = "libvirt is a C library; everything outside this file goes through safe calls"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

/// Something happened in a domain's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// The domain's name.
    pub name: String,
    /// A `VIR_DOMAIN_EVENT_*`.
    pub event: u32,
    /// What the event says beside it, by event.
    pub detail: u32,
}

/// Hears of events. Runs on the thread of the event loop, and must not call libvirt.
pub type Handler = Box<dyn Fn(Lifecycle) + Send + Sync>;

/// Keeps a handler registered.
pub struct Subscription {
    connect: Connect,
    callback: c_int,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the connection is open as long as `self.connect` lives, and `callback` is an id it
        // gave. libvirt frees the handler through `free_handler` once no call of it is under way.
        unsafe { sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), self.callback) };
    }
}

/// Calls `handler` for each lifecycle event of any domain, as long as the subscription lives.
pub fn subscribe(connect: &Connect, handler: Handler) -> Result<Subscription, Error> {
    // A `Box<dyn Fn>` is two words; C keeps one. So it is boxed once more.
    let opaque = Box::into_raw(Box::new(handler)).cast::<c_void>();
    // SAFETY: all events share one callback type in C, and libvirt casts back to the type that belongs
    // to the event's id (see VIR_DOMAIN_EVENT_CALLBACK); `on_lifecycle` has the type that belongs to
    // VIR_DOMAIN_EVENT_ID_LIFECYCLE. Function pointers all have one size.
    let callback = unsafe {
        std::mem::transmute::<sys::virConnectDomainEventCallback, sys::virConnectDomainEventGenericCallback>(
            Some(on_lifecycle),
        )
    };
    let event = sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int;
    // SAFETY: the connection is open; no domain means all; `opaque` stays valid until `free_handler`.
    let id = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            ptr::null_mut(),
            event,
            callback,
            opaque,
            Some(free_handler),
        )
    };
    if id < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt does not take what it refused, so the box is still ours alone.
        unsafe { free_handler(opaque) };
        return Err(error);
    }
    Ok(Subscription { connect: connect.clone(), callback: id })
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: `opaque` is the handler given in `subscribe`, which libvirt keeps until `free_handler`.
    let handler = unsafe { &*opaque.cast::<Handler>() };
    // SAFETY: libvirt lends the domain for the time of the call, and its name lives as long as it.
    let name = unsafe { text(sys::virDomainGetName(domain)) };
    let happened = Lifecycle { name, event: event.cast_unsigned(), detail: detail.cast_unsigned() };
    // A panic must not unwind into C.
    if catch_unwind(AssertUnwindSafe(|| handler(happened))).is_err() {
        tracing::error!("the handler of libvirt's events panicked");
    }
    0
}

unsafe extern "C" fn free_handler(opaque: *mut c_void) {
    // SAFETY: `opaque` was made from this box in `subscribe`, and libvirt calls this once.
    drop(unsafe { Box::from_raw(opaque.cast::<Handler>()) });
}

/// Statistics of one domain, as libvirt names them: `cpu.time`, `block.0.rd.bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainStats {
    /// The domain's name.
    pub name: String,
    /// What is a whole number and not negative; the rest is left out.
    pub numbers: Vec<(String, u64)>,
    /// What is a text.
    pub texts: Vec<(String, String)>,
}

/// Statistics of all domains that run or are held, in one call. A domain that is busy with something
/// else is not waited for: some of its numbers are missing then.
pub fn stats_of_active(connect: &Connect) -> Result<Vec<DomainStats>, Error> {
    let wanted = sys::VIR_DOMAIN_STATS_STATE
        | sys::VIR_DOMAIN_STATS_CPU_TOTAL
        | sys::VIR_DOMAIN_STATS_BALLOON
        | sys::VIR_DOMAIN_STATS_VCPU
        | sys::VIR_DOMAIN_STATS_INTERFACE
        | sys::VIR_DOMAIN_STATS_BLOCK;
    let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the connection is open, and `records` is a place for the list.
    let count = unsafe {
        sys::virConnectGetAllDomainStats(
            connect.as_ptr(),
            wanted as c_uint,
            &raw mut records,
            flags as c_uint,
        )
    };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let stats = (0..count)
        .map(|n| {
            // SAFETY: libvirt made a list of `count` records, each with `nparams` parameters.
            let (record, params) = unsafe {
                let record = &**records.add(n);
                let params = match usize::try_from(record.nparams) {
                    Ok(len) if len > 0 => std::slice::from_raw_parts(record.params, len),
                    _ => &[],
                };
                (record, params)
            };
            // SAFETY: the record holds its domain until the list is freed.
            let name = unsafe { text(sys::virDomainGetName(record.dom)) };
            DomainStats {
                name,
                numbers: params.iter().filter_map(number).collect(),
                texts: params.iter().filter_map(string).collect(),
            }
        })
        .collect();
    // SAFETY: the list came from libvirt (it ends with a null pointer), and nothing of it is kept.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(stats)
}

fn number(param: &sys::_virTypedParameter) -> Option<(String, u64)> {
    // SAFETY: the union's part is the one that `type_` names.
    let value = unsafe {
        match param.type_.cast_unsigned() {
            sys::VIR_TYPED_PARAM_INT => u64::try_from(param.value.i).ok(),
            sys::VIR_TYPED_PARAM_UINT => Some(u64::from(param.value.ui)),
            sys::VIR_TYPED_PARAM_LLONG => u64::try_from(param.value.l).ok(),
            sys::VIR_TYPED_PARAM_ULLONG => Some(param.value.ul),
            _ => None,
        }
    }?;
    // SAFETY: `field` is an array that holds a string with its end.
    Some((unsafe { text(param.field.as_ptr()) }, value))
}

/// Numbers of the job that works on a domain, or with `VIR_DOMAIN_JOB_STATS_COMPLETED` of the last one;
/// none without a job.
pub fn job_stats(domain: &Domain, flags: u32) -> Result<Vec<(String, u64)>, Error> {
    let (mut job, mut count): (c_int, c_int) = (0, 0);
    let mut params: sys::virTypedParameterPtr = ptr::null_mut();
    // SAFETY: the domain is held by its wrapper, and the three places are ours.
    let done = unsafe {
        sys::virDomainGetJobStats(
            domain.as_ptr(),
            &raw mut job,
            &raw mut params,
            &raw mut count,
            flags as c_uint,
        )
    };
    if done < 0 {
        return Err(Error::last_error());
    }
    let numbers = match usize::try_from(count) {
        // SAFETY: libvirt made a list of `count` parameters.
        Ok(len) if len > 0 && !params.is_null() && job.cast_unsigned() != sys::VIR_DOMAIN_JOB_NONE => {
            unsafe { std::slice::from_raw_parts(params, len) }.iter().filter_map(number).collect()
        }
        _ => Vec::new(),
    };
    // SAFETY: the list came from libvirt, and nothing of it is kept.
    unsafe { sys::virTypedParamsFree(params, count) };
    Ok(numbers)
}

/// Lets a move switch over now and fetch the rest of the memory afterwards.
pub fn start_post_copy(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is held by its wrapper.
    let done = unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) };
    if done < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Ends what libvirt does with a domain at the moment: a move, or a copy of its memory.
pub fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid as long as it is borrowed.
    match unsafe { sys::virDomainAbortJob(domain.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

fn string(param: &sys::_virTypedParameter) -> Option<(String, String)> {
    if param.type_.cast_unsigned() != sys::VIR_TYPED_PARAM_STRING {
        return None;
    }
    // SAFETY: the union's part is the one that `type_` names, and both strings have their end.
    Some(unsafe { (text(param.field.as_ptr()), text(param.value.s)) })
}

/// Limits a disk; `limits` are names of `VIR_DOMAIN_BLOCK_IOTUNE_*`, with 0 for none.
pub fn set_block_io_tune(
    domain: &Domain,
    disk: &str,
    limits: &[(&str, u64)],
    flags: u32,
) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    let mut params: Vec<_> = limits.iter().map(|(name, value)| parameter(name, *value)).collect();
    let count = c_int::try_from(params.len()).expect("there are few limits");
    // SAFETY: the domain is held by its wrapper; the parameters and the name live over the call, which keeps
    // nothing of them.
    let done = unsafe {
        sys::virDomainSetBlockIoTune(domain.as_ptr(), disk.as_ptr(), params.as_mut_ptr(), count, flags)
    };
    if done < 0 { Err(Error::last_error()) } else { Ok(()) }
}

fn parameter(name: &str, value: u64) -> sys::_virTypedParameter {
    let mut field = [0; 80];
    // The last byte stays the string's end.
    for (place, byte) in field[..79].iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    let value = sys::_virTypedParameter__bindgen_ty_1 { ul: value };
    sys::_virTypedParameter { field, type_: sys::VIR_TYPED_PARAM_ULLONG.cast_signed(), value }
}

/// A domain's state, a `VIR_DOMAIN_*`, and the reason, by state.
pub fn state(domain: &Domain) -> Result<(u32, u32), Error> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: the domain is held by its wrapper, and both places are ours.
    let done = unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if done < 0 { Err(Error::last_error()) } else { Ok((state.cast_unsigned(), reason.cast_unsigned())) }
}

/// A connection of its own to the screen of a domain that runs.
pub fn open_graphics(domain: &Domain) -> Result<UnixStream, Error> {
    let fd = domain.open_graphics_fd(0, sys::VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)?;
    // SAFETY: libvirt made this socket for the caller alone, who is to close it.
    Ok(unsafe { UnixStream::from_raw_fd(fd.cast_signed()) })
}

/// # Safety
/// `chars` is null, or a string with its end.
unsafe fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}

/// Begins a backup job, and makes a checkpoint at the same moment.
pub fn backup_begin(domain: &Domain, backup: &str, checkpoint: &str) -> Result<(), Error> {
    let (backup, checkpoint) = (CString::new(backup)?, CString::new(checkpoint)?);
    // SAFETY: the domain is held by its wrapper, and both texts live until the call returns.
    let begun =
        unsafe { sys::virDomainBackupBegin(domain.as_ptr(), backup.as_ptr(), checkpoint.as_ptr(), 0) };
    if begun < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Is a backup job under way?
pub fn backup_is_active(domain: &Domain) -> Result<bool, Error> {
    // SAFETY: the domain is held by its wrapper.
    let xml = unsafe { sys::virDomainBackupGetXMLDesc(domain.as_ptr(), 0) };
    if !xml.is_null() {
        // SAFETY: the text came from libvirt, which leaves it to its caller, and nothing of it is kept.
        unsafe { free(xml.cast::<c_void>()) };
        return Ok(true);
    }
    let error = Error::last_error();
    if error.code().is_known_and(|code| code == ErrorNumber::NoDomainBackup) { Ok(false) } else { Err(error) }
}

/// Tells libvirt of a checkpoint whose bitmap is there already.
pub fn checkpoint_redefine(domain: &Domain, checkpoint: &str) -> Result<(), Error> {
    let checkpoint = CString::new(checkpoint)?;
    let flags = sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE as c_uint;
    // SAFETY: the domain is held by its wrapper, and the text lives until the call returns.
    let made = unsafe { sys::virDomainCheckpointCreateXML(domain.as_ptr(), checkpoint.as_ptr(), flags) };
    if made.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt gave us this reference, and it is used no more.
    unsafe { sys::virDomainCheckpointFree(made) };
    Ok(())
}

/// The names of the domain's checkpoints.
pub fn checkpoints(domain: &Domain) -> Result<Vec<String>, Error> {
    let mut list: *mut sys::virDomainCheckpointPtr = ptr::null_mut();
    // SAFETY: the domain is held by its wrapper, and `list` is a place for the list.
    let count = unsafe { sys::virDomainListAllCheckpoints(domain.as_ptr(), &raw mut list, 0) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let names = (0..count)
        .map(|n| {
            // SAFETY: libvirt made a list of `count` references; each is ours, used for its name, and let go.
            unsafe {
                let checkpoint = *list.add(n);
                let name = text(sys::virDomainCheckpointGetName(checkpoint));
                sys::virDomainCheckpointFree(checkpoint);
                name
            }
        })
        .collect();
    // SAFETY: the list itself came from libvirt, which leaves it to its caller.
    unsafe { free(list.cast::<c_void>()) };
    Ok(names)
}

/// Deletes a checkpoint; what its bitmap knew goes to the one before. With `only_name`, its bitmap is left
/// as it is.
pub fn checkpoint_delete(domain: &Domain, name: &str, only_name: bool) -> Result<(), Error> {
    let name = CString::new(name)?;
    let flags = if only_name { sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY } else { 0 };
    // SAFETY: the domain is held by its wrapper, and the text lives until the call returns.
    let found = unsafe { sys::virDomainCheckpointLookupByName(domain.as_ptr(), name.as_ptr(), 0) };
    if found.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: `found` is a reference that libvirt gave us.
    let deleted = unsafe { sys::virDomainCheckpointDelete(found, flags as c_uint) };
    let done = if deleted < 0 { Err(Error::last_error()) } else { Ok(()) };
    // SAFETY: the same; it is used no more.
    unsafe { sys::virDomainCheckpointFree(found) };
    done
}

unsafe extern "C" {
    /// C's own: what libvirt leaves to its caller was made by `malloc`.
    fn free(memory: *mut c_void);
}

/// Lets a packet socket hear what comes into the node from the interface `index`, and nothing that goes out.
pub fn listen_on_interface(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let result = |code: c_int| if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let on: c_int = 1;
    // SAFETY: the socket is open; `on` is an int of the length that is given, and outlives the call.
    result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            ptr::from_ref(&on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: c_int::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the socket is open; `address` is whole, of the length that is given, and outlives the call.
    result(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })
}

/// Gives back to the system what was freed: C's allocator keeps it, in case it is wanted again.
pub fn give_back_memory() {
    // SAFETY: it takes no pointers, and holds the allocator's own locks.
    let _was_any = unsafe { libc::malloc_trim(0) };
}

/// Lets all threads share one heap: else each keeps what it needed once. To be called before there are any.
pub fn share_one_heap() {
    // SAFETY: it takes no pointers; no other thread allocates yet.
    let _taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
