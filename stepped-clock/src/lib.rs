//! A clock that steps, for the one process that this library is preloaded into. The file named by
//! `STEPPED_CLOCK` holds by how many seconds it is off: eight bytes, as the machine has them, to be
//! changed in place at any moment.
//!
//! As on a machine whose clock is set, a wait until a time of the day ends when the *clock* gets
//! there: at once if it is put forward past that time, an hour late if it is set back by an hour.
//! libfaketime 0.9.10 knows nothing of the `cnd_timedwait` that librdkafka waits with. It gives out
//! faked times, and the kernel waits for them by the real clock: so with any offset, also one that
//! never changes, each wait of librdkafka ends at once or after an hour, as on no machine.
//!
//! Covers what `order-consumer` and its libraries call: no `pthread_cond_timedwait`, and nothing
//! that waits by the monotonic clock, which is not stepped either.
#![expect(unsafe_code, reason = "it stands before functions of the C library")]

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use libc::{clockid_t, time_t, timespec, timeval};

/// How late a wait may notice that its time has come.
const TICK: Duration = Duration::from_millis(5);

const TIME_UTC: c_int = 1;
const THRD_TIMEDOUT: c_int = 4;

/// By how many seconds the clock is off where no file says so.
static UNNAMED: AtomicI64 = AtomicI64::new(0);

/// By how many seconds the clock is off.
fn offset() -> i64 {
    static OFFSET: OnceLock<&'static AtomicI64> = OnceLock::new();
    OFFSET.get_or_init(|| mapped().unwrap_or(&UNNAMED)).load(SeqCst)
}

/// The number in the file, for as long as the process lives.
fn mapped() -> Option<&'static AtomicI64> {
    // SAFETY: the name is a string that ends with 0; `mmap` says whether it worked, gives an
    // address that is aligned for everything, and is never undone.
    unsafe {
        let name = libc::getenv(c"STEPPED_CLOCK".as_ptr());
        if name.is_null() {
            return None;
        }
        let file = libc::open(name, libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let page = libc::mmap(null_mut(), 8, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        libc::close(file);
        (page != libc::MAP_FAILED).then(|| &*page.cast::<AtomicI64>())
    }
}

/// The function that this one stands before.
///
/// # Safety
/// `F` has to be the type of that function.
unsafe fn next<F: Copy>(known: &OnceLock<F>, name: &CStr) -> F {
    *known.get_or_init(|| {
        // SAFETY: `F` is a function pointer by the caller's word, and no C library lacks these.
        unsafe {
            let found = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
            assert!(!found.is_null());
            std::mem::transmute_copy::<*mut c_void, F>(&found)
        }
    })
}

type ClockGettime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
type CndWait = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type CndTimedwait = unsafe extern "C" fn(*mut c_void, *mut c_void, *const timespec) -> c_int;
type CndBroadcast = unsafe extern "C" fn(*mut c_void) -> c_int;

/// See `clock_gettime(3)`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    static NEXT: OnceLock<ClockGettime> = OnceLock::new();
    // SAFETY: what the caller promised is passed on; after success `time` has been written to.
    unsafe {
        let done = next(&NEXT, c"clock_gettime")(clock, time);
        if done == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
            (*time).tv_sec += offset();
        }
        done
    }
}

fn now() -> timespec {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` may be written to.
    unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    now
}

fn is_past(time: (time_t, i64)) -> bool {
    let now = now();
    (now.tv_sec, now.tv_nsec) >= time
}

/// See `gettimeofday(2)`. No time zone, as everywhere today.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut timeval, _zone: *mut c_void) -> c_int {
    let now = now();
    // SAFETY: the caller's word.
    unsafe { *time = timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 } };
    0
}

/// See `time(2)`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(to: *mut time_t) -> time_t {
    let now = now().tv_sec;
    if !to.is_null() {
        // SAFETY: the caller's word.
        unsafe { *to = now };
    }
    now
}

/// See `timespec_get(3)`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timespec_get(time: *mut timespec, base: c_int) -> c_int {
    if base != TIME_UTC {
        return 0;
    }
    // SAFETY: the caller's word.
    unsafe { *time = now() };
    base
}

/// A wait that goes on.
struct Wait {
    condition: usize,
    until: (time_t, i64),
    /// Its time has come, and it was woken for that.
    is_over: bool,
}

static WAITS: OnceLock<Mutex<HashMap<u64, Wait>>> = OnceLock::new();

fn with_waits<T>(what: impl FnOnce(&mut HashMap<u64, Wait>) -> T) -> T {
    let waits = WAITS.get_or_init(|| {
        std::thread::spawn(wake_those_whose_time_has_come);
        Mutex::default()
    });
    what(&mut waits.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The kernel cannot be told of this clock, so those who wait for it are woken from here, again and
/// again, since one may just be about to begin its wait.
fn wake_those_whose_time_has_come() {
    static NEXT: OnceLock<CndBroadcast> = OnceLock::new();
    loop {
        std::thread::sleep(TICK);
        with_waits(|waits| {
            for wait in waits.values_mut().filter(|wait| is_past(wait.until)) {
                wait.is_over = true;
                // SAFETY: who waits removes its entry first, so the condition is still there.
                unsafe { next(&NEXT, c"cnd_broadcast")(wait.condition as *mut c_void) };
            }
        });
    }
}

/// See `cnd_timedwait` in C11.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnd_timedwait(
    condition: *mut c_void,
    mutex: *mut c_void,
    until: *const timespec,
) -> c_int {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    static WAIT: OnceLock<CndWait> = OnceLock::new();
    static TIMED_WAIT: OnceLock<CndTimedwait> = OnceLock::new();
    // SAFETY: what the caller promised is passed on.
    unsafe {
        let until = ((*until).tv_sec, (*until).tv_nsec);
        if is_past(until) {
            // It lets go of the mutex, if only for a moment.
            let long_ago = timespec { tv_sec: 0, tv_nsec: 0 };
            return next(&TIMED_WAIT, c"cnd_timedwait")(condition, mutex, &raw const long_ago);
        }
        let number = NUMBERS.fetch_add(1, SeqCst);
        let wait = Wait { condition: condition as usize, until, is_over: false };
        with_waits(|waits| waits.insert(number, wait));
        let done = next(&WAIT, c"cnd_wait")(condition, mutex);
        let is_over = with_waits(|waits| waits.remove(&number)).is_some_and(|wait| wait.is_over);
        if done == 0 && is_over { THRD_TIMEDOUT } else { done }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Instant, SystemTime};

    unsafe extern "C" {
        fn mtx_init(mutex: *mut c_void, kind: c_int) -> c_int;
        fn mtx_lock(mutex: *mut c_void) -> c_int;
        fn cnd_init(condition: *mut c_void) -> c_int;
        fn cnd_signal(condition: *mut c_void) -> c_int;
    }

    /// What a test waits for.
    struct Condition(Box<[[u64; 16]; 2]>);

    impl Condition {
        fn new() -> Self {
            let mut own = Self(Box::default());
            let [mutex, condition] = own.pointers();
            // SAFETY: both are large enough, and stay where they are.
            unsafe { assert_eq!((mtx_init(mutex, 0), cnd_init(condition)), (0, 0)) };
            own
        }

        fn pointers(&mut self) -> [*mut c_void; 2] {
            let [mutex, condition] = &mut *self.0;
            [mutex.as_mut_ptr().cast(), condition.as_mut_ptr().cast()]
        }

        /// Until so many seconds from now by this clock. Says how that ended, and after how long.
        fn wait(mut self, seconds: i64) -> (c_int, u64) {
            let [mutex, condition] = self.pointers();
            let begun = Instant::now();
            let mut until = now();
            until.tv_sec += seconds;
            // SAFETY: as above.
            let ended = unsafe {
                mtx_lock(mutex);
                cnd_timedwait(condition, mutex, &raw const until)
            };
            (ended, begun.elapsed().as_secs())
        }
    }

    /// One test, for there is one clock.
    #[test]
    fn waits_end_when_the_clock_gets_there() {
        let before = SystemTime::now();
        UNNAMED.store(-3600, SeqCst);
        let set_back = before.duration_since(SystemTime::now()).unwrap();
        assert!((3590..=3600).contains(&set_back.as_secs()), "{set_back:?}");

        // An offset that does not change is nobody's matter.
        let (ended, lasted) = Condition::new().wait(2);
        assert!(ended == THRD_TIMEDOUT && (2..30).contains(&lasted), "{ended} after {lasted} s");

        let in_a_second = |does: Box<dyn FnOnce() + Send>| {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(1));
                does();
            })
        };
        // Put forward past it.
        in_a_second(Box::new(|| UNNAMED.store(0, SeqCst)));
        let (ended, lasted) = Condition::new().wait(60);
        assert!(ended == THRD_TIMEDOUT && lasted < 30, "{ended} after {lasted} s");

        // Set back by three seconds.
        in_a_second(Box::new(|| UNNAMED.store(-3, SeqCst)));
        let (ended, lasted) = Condition::new().wait(2);
        assert!(ended == THRD_TIMEDOUT && lasted >= 5, "{ended} after {lasted} s");

        // A signal is one, whatever the clock does.
        let mut signalled = Condition::new();
        let condition = signalled.pointers()[1] as usize;
        in_a_second(Box::new(move || {
            // SAFETY: the wait goes on for a minute.
            unsafe { cnd_signal(condition as *mut c_void) };
        }));
        let (ended, lasted) = signalled.wait(60);
        assert!(ended == 0 && lasted < 30, "{ended} after {lasted} s");
    }
}
