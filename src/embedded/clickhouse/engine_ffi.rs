//! The C functions of libchdb behind a safe interface. The only file of the project with `unsafe`.
//!
//! Reference: `programs/local/chdb.h` of chdb-core. Handles are opaque pointers; strings are pointer and length, so that
//! they may hold any byte. Functions may be called from any thread, but a connection runs one statement at a time:
//! `Connection` is `Send` and not `Sync`, and every statement borrows it mutably until its handle is gone.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{self, NonNull};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::analysis::{Analysis, QueryClass, Statistics};

type Handle = *mut c_void;
/// `chdb_query_with_params_n` and its two siblings: connection, SQL, format, names, values.
type WithParameters = unsafe extern "C" fn(
    Handle,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> Handle;
type Counter = unsafe extern "C" fn(Handle) -> u64;
type Classify = unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize, *mut RawAnalysis) -> c_int;

/// `chdb_query_analysis_v1`.
#[repr(C)]
struct RawAnalysis {
    struct_size: u32,
    statement_count: u32,
    flags: u32,
    query_class: u32,
}

macro_rules! functions {
    ($($field:ident: $type:ty = $symbol:literal,)*) => {
        /// The functions of the library that are used. They live as long as the process: the library is never unloaded,
        /// because its threads run its code until the end.
        struct Functions {
            $($field: $type,)*
        }

        impl Functions {
            /// # Safety
            /// `library` must be libchdb of the pinned version, whose functions have these types.
            unsafe fn look_up(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the caller vouches for the types; the pointers stay valid since the library is leaked.
                Ok(Self { $($field: unsafe { *library.get::<$type>(concat!($symbol, "\0").as_bytes())? },)* })
            }
        }
    };
}

functions! {
    version: unsafe extern "C" fn() -> *const c_char = "chdb_version",
    set_signal_handlers_enabled: unsafe extern "C" fn(c_int) = "chdb_set_signal_handlers_enabled",
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Handle = "chdb_connect",
    close: unsafe extern "C" fn(*mut Handle) = "chdb_close_conn",
    shutdown: unsafe extern "C" fn() -> c_int = "chdb_shutdown",
    query: WithParameters = "chdb_query_with_params_n",
    classify: Classify = "chdb_classify_query_n",
    stream_query: WithParameters = "chdb_stream_query_with_params_n",
    stream_fetch: unsafe extern "C" fn(Handle, Handle) -> Handle = "chdb_stream_fetch_result",
    stream_cancel: unsafe extern "C" fn(Handle, Handle) = "chdb_stream_cancel_query",
    stream_insert: WithParameters = "chdb_stream_insert_with_params_n",
    insert_append: unsafe extern "C" fn(Handle, *const c_void, usize) -> c_int = "chdb_stream_append",
    insert_done: unsafe extern "C" fn(Handle) -> Handle = "chdb_stream_done",
    insert_cancel: unsafe extern "C" fn(Handle) = "chdb_stream_cancel_insert",
    insert_error: unsafe extern "C" fn(Handle) -> *const c_char = "chdb_stream_insert_error",
    insert_destroy: unsafe extern "C" fn(Handle) = "chdb_destroy_insert_stream",
    result_destroy: unsafe extern "C" fn(Handle) = "chdb_destroy_query_result",
    result_buffer: unsafe extern "C" fn(Handle) -> *const u8 = "chdb_result_buffer",
    result_length: unsafe extern "C" fn(Handle) -> usize = "chdb_result_length",
    result_error: unsafe extern "C" fn(Handle) -> *const c_char = "chdb_result_error",
    result_rows: Counter = "chdb_result_rows_read",
    result_bytes: Counter = "chdb_result_bytes_read",
    read_rows: Counter = "chdb_result_storage_rows_read",
    read_bytes: Counter = "chdb_result_storage_bytes_read",
    written_rows: Counter = "chdb_result_rows_written",
    written_bytes: Counter = "chdb_result_bytes_written",
}

/// The loaded library.
#[derive(Clone, Copy)]
pub(super) struct Chdb(&'static Functions);

impl std::fmt::Debug for Chdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chdb")
    }
}

impl Chdb {
    /// Loads the library for the rest of the process. The caller has checked that the processor can run it.
    pub(super) fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: libchdb's initialisers only register its own objects; the checksum of the file is pinned by
        // `deploy/engines`. RTLD_LOCAL keeps its symbols (its own allocator among them) from ours.
        let library = Box::leak(Box::new(unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }?));
        // SAFETY: the types are those of chdb.h of the pinned version.
        let functions = unsafe { Functions::look_up(library) }?;
        // SAFETY: called before the first connect, as chdb.h asks. With the handlers a crash hangs the process.
        unsafe { (functions.set_signal_handlers_enabled)(0) };
        Ok(Self(Box::leak(Box::new(functions))))
    }

    /// The library's version, for instance `26.7.3`.
    pub(super) fn version(self) -> String {
        // SAFETY: returns a static NUL-terminated text, or NULL.
        unsafe { text((self.0.version)()) }.unwrap_or_default()
    }

    /// Opens a connection. `arguments` are `--name=value`: of the first one also the server's options. On `None` the
    /// engine has said the reason on stderr. Arguments with a NUL are refused the same way.
    pub(super) fn connect(self, arguments: &[String]) -> Option<Connection> {
        let texts: Option<Vec<CString>> = std::iter::once("chdb")
            .chain(arguments.iter().map(String::as_str))
            .map(|text| CString::new(text).ok())
            .collect();
        let texts = texts?;
        let mut pointers: Vec<*mut c_char> = texts.iter().map(|text| text.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `count` valid NUL-terminated texts that outlive the call; the engine copies them.
        let connection = NonNull::new(unsafe { (self.0.connect)(count, pointers.as_mut_ptr()) })?;
        Some(Connection { chdb: self, connection })
    }

    /// Joins the engine's threads. Every connection must be closed before; else it does nothing and says `false`.
    pub(super) fn shutdown(self) -> bool {
        // SAFETY: harmless with open connections, by its contract.
        unsafe { (self.0.shutdown)() == 0 }
    }
}

/// One connection: a session with its own settings and current database. Closed on drop.
pub(super) struct Connection {
    chdb: Chdb,
    connection: NonNull<Handle>,
}

// SAFETY: the library allows calls from any thread as long as they are not at once, which `&mut self` ensures.
unsafe impl Send for Connection {}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: came from `connect`, is closed once, and no statement is left since each borrows the connection.
        unsafe { (self.chdb.0.close)(self.connection.as_ptr()) };
    }
}

/// Pointers and lengths of parameters, as the C functions want them.
struct RawParameters {
    names: Vec<*const c_char>,
    name_lengths: Vec<usize>,
    values: Vec<*const c_char>,
    value_lengths: Vec<usize>,
}

impl RawParameters {
    fn new(parameters: &[(String, String)]) -> Self {
        Self {
            names: parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect(),
            name_lengths: parameters.iter().map(|(name, _)| name.len()).collect(),
            values: parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect(),
            value_lengths: parameters.iter().map(|(_, value)| value.len()).collect(),
        }
    }
}

impl Connection {
    fn handle(&self) -> Handle {
        // SAFETY: `connect` returned a pointer to the handle, valid until `close`.
        unsafe { *self.connection.as_ptr() }
    }

    fn start(&mut self, function: WithParameters, sql: &[u8], format: &str, parameters: &[(String, String)]) -> Handle {
        let raw = RawParameters::new(parameters);
        // SAFETY: all pointers come with their lengths and outlive the call, in which the engine copies them.
        unsafe {
            function(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                raw.names.as_ptr(),
                raw.name_lengths.as_ptr(),
                raw.values.as_ptr(),
                raw.value_lengths.as_ptr(),
                parameters.len(),
            )
        }
    }

    /// Runs a statement to its end; the whole answer is in memory.
    pub(super) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Answer, String> {
        let handle = self.start(self.chdb.0.query, sql, format, parameters);
        Answer::new(self.chdb, handle)
    }

    /// Starts a SELECT whose answer comes in pieces.
    pub(super) fn stream(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Stream<'_>, String> {
        let handle = self.start(self.chdb.0.stream_query, sql, format, parameters);
        Ok(Stream { answer: Answer::new(self.chdb, handle)?, connection: self, ended: false })
    }

    /// Starts an INSERT (without its FORMAT clause and data), whose data follow by `append`.
    pub(super) fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Insert<'_>, String> {
        let handle = self.start(self.chdb.0.stream_insert, sql, format, parameters);
        let insert = Insert { chdb: self.chdb, handle, open: true, connection: PhantomData };
        match insert.error() {
            Some(error) => Err(error),
            None => Ok(insert),
        }
    }

    /// What the engine's parser makes of a text, without running it.
    pub(super) fn classify(&mut self, sql: &[u8]) -> Analysis {
        let mut raw = RawAnalysis { struct_size: 16, statement_count: 0, flags: 0, query_class: 4 };
        // SAFETY: `sql` with its length, no target database, and a struct of the size that it states.
        let state = unsafe {
            (self.chdb.0.classify)(self.handle(), sql.as_ptr().cast(), sql.len(), ptr::null(), 0, &raw mut raw)
        };
        let class = if state == 0 { QueryClass::from_number(raw.query_class) } else { QueryClass::Unknown };
        Analysis { statements: raw.statement_count, class }
    }
}

/// A result, or a piece of one. Its memory is the engine's, freed on drop.
pub(super) struct Answer {
    chdb: Chdb,
    handle: Handle,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: a result handle, destroyed once.
        unsafe { (self.chdb.0.result_destroy)(self.handle) };
    }
}

impl Answer {
    fn new(chdb: Chdb, handle: Handle) -> Result<Self, String> {
        if handle.is_null() {
            return Err("the engine gave no answer".into());
        }
        let answer = Self { chdb, handle };
        // SAFETY: a valid result handle; the text lives as long as the result and is copied.
        match unsafe { text((chdb.0.result_error)(handle)) } {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }

    /// The formatted rows.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer has that length, is not written any more and lives as long as the result.
        unsafe {
            let (buffer, length) = ((self.chdb.0.result_buffer)(self.handle), (self.chdb.0.result_length)(self.handle));
            if buffer.is_null() || length == 0 { &[] } else { std::slice::from_raw_parts(buffer, length) }
        }
    }

    /// What the engine counted for this result or piece.
    pub(super) fn statistics(&self) -> Statistics {
        // SAFETY: a valid result handle.
        let count = |function: Counter| unsafe { function(self.handle) };
        Statistics {
            read_rows: count(self.chdb.0.read_rows),
            read_bytes: count(self.chdb.0.read_bytes),
            written_rows: count(self.chdb.0.written_rows),
            written_bytes: count(self.chdb.0.written_bytes),
            result_rows: count(self.chdb.0.result_rows),
            result_bytes: count(self.chdb.0.result_bytes),
        }
    }
}

/// A running SELECT. Cancelled on drop unless it was read to its end.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    answer: Answer,
    connection: &'a mut Connection,
    ended: bool,
}

impl Stream<'_> {
    /// The next piece; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Answer>, String> {
        // SAFETY: both handles are valid, and `&mut self` serialises the calls.
        let handle = unsafe { (self.answer.chdb.0.stream_fetch)(self.connection.handle(), self.answer.handle) };
        let piece = Answer::new(self.answer.chdb, handle).inspect_err(|_| self.ended = true)?;
        self.ended = piece.bytes().is_empty();
        Ok((!self.ended).then_some(piece))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: both handles are valid; the result itself is destroyed by `Answer` after this.
            unsafe { (self.answer.chdb.0.stream_cancel)(self.connection.handle(), self.answer.handle) };
        }
    }
}

/// A running INSERT. Cancelled on drop unless `finish` was called.
#[derive(Debug)]
pub(super) struct Insert<'a> {
    chdb: Chdb,
    handle: Handle,
    open: bool,
    connection: PhantomData<&'a mut Connection>,
}

impl Insert<'_> {
    fn error(&self) -> Option<String> {
        // SAFETY: a valid handle, never NULL by its contract; the text is copied.
        unsafe { text((self.chdb.0.insert_error)(self.handle)) }
    }

    /// Hands over data. Waits while the engine is behind.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), String> {
        // SAFETY: data with its length; the engine copies it.
        match unsafe { (self.chdb.0.insert_append)(self.handle, data.as_ptr().cast(), data.len()) } {
            0 => Ok(()),
            _ => Err(self.error().unwrap_or_else(|| "the engine refused the data".into())),
        }
    }

    /// Ends the data and waits until they are stored.
    pub(super) fn finish(mut self) -> Result<Statistics, String> {
        self.open = false;
        // SAFETY: a valid handle; the result is a handle of its own.
        let handle = unsafe { (self.chdb.0.insert_done)(self.handle) };
        Ok(Answer::new(self.chdb, handle)?.statistics())
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: a valid handle, cancelled only while it is open, destroyed once.
        unsafe {
            if self.open {
                (self.chdb.0.insert_cancel)(self.handle);
            }
            (self.chdb.0.insert_destroy)(self.handle);
        }
    }
}

/// # Safety
/// `pointer` is NULL or a NUL-terminated text.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: by the caller's word.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
