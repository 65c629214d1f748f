//! The few calls of librdkafka that rdkafka does not wrap, or wraps with a panic.
//! With `nodelay` the only unsafe code of the library.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Message as _, OwnedHeaders};
use rdkafka_sys as sys;

use crate::message::{Headers, PartitionKey, Record};

/// Copies a message out of the client's memory. `scratch` is for whatever comes next with it.
pub(crate) fn record_of(
    topic: &Arc<str>,
    message: &BorrowedMessage<'_>,
    scratch: &mut Headers,
) -> Record {
    read_headers(message, scratch);
    Record {
        source: PartitionKey { topic: Arc::clone(topic), partition: message.partition() },
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        // A clone has no room to spare.
        headers: scratch.clone(),
    }
}

/// Copies a message's headers. rdkafka's own iterator panics on a name that is not UTF-8, and
/// any producer can write one.
fn read_headers(message: &BorrowedMessage<'_>, out: &mut Headers) {
    out.clear();
    let mut list: *mut sys::rd_kafka_headers_t = ptr::null_mut();
    // SAFETY: `message.ptr()` is valid while `message` is borrowed; librdkafka writes `list` and
    // keeps it owned by the message, which outlives every use below.
    unsafe {
        if sys::rd_kafka_message_headers(message.ptr(), &raw mut list)
            != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return;
        }
        for index in 0..sys::rd_kafka_header_cnt(list) {
            let mut name: *const c_char = ptr::null();
            let mut value: *const c_void = ptr::null();
            let mut size = 0;
            let error = sys::rd_kafka_header_get_all(
                list,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            );
            if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                break;
            }
            let value =
                (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            out.push(CStr::from_ptr(name).to_bytes(), value);
        }
    }
}

/// Headers for a record to publish, byte for byte, names that are not UTF-8 included.
pub(crate) fn to_native(headers: &Headers) -> OwnedHeaders {
    let native = OwnedHeaders::new_with_capacity(headers.len());
    let list = ptr::from_ref(native.as_borrowed()).cast_mut().cast::<sys::rd_kafka_headers_t>();
    for (name, value) in headers.iter() {
        let (data, size) = match value {
            Some(value) => (value.as_ptr().cast::<c_void>(), value.len().cast_signed()),
            None => (ptr::null(), 0),
        };
        // SAFETY: `BorrowedHeaders` is rdkafka's name for the native list itself, which `native`
        // owns and nobody else refers to; librdkafka copies name and value.
        unsafe {
            sys::rd_kafka_header_add(
                list,
                name.as_ptr().cast(),
                name.len().cast_signed(),
                data,
                size,
            );
        }
    }
    native
}

/// A topic's id as Kafka's own tools print it, by `DescribeTopics`.
///
/// `Ok(None)` if there is no such topic. Blocks for `timeout_ms` at most.
pub(crate) fn topic_id(
    client: *mut sys::rd_kafka_t,
    topic: &str,
    timeout_ms: i32,
) -> Result<Option<String>, String> {
    let Ok(name) = CString::new(topic) else { return Ok(None) };
    // SAFETY: `client` is alive for the whole call (the caller holds the client); every object
    // made here is destroyed here; pointers into the event are read before it is destroyed.
    unsafe {
        let queue = sys::rd_kafka_queue_new(client);
        let options = sys::rd_kafka_AdminOptions_new(
            client,
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        let mut text: [c_char; 256] = [0; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options,
            timeout_ms,
            text.as_mut_ptr(),
            text.len(),
        );
        let mut names = [name.as_ptr()];
        let collection =
            sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        sys::rd_kafka_DescribeTopics(client, collection, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1000));
        let answer = read_topic_id(event);
        sys::rd_kafka_event_destroy(event);
        sys::rd_kafka_TopicCollection_destroy(collection);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// Whether the consumer is a member of its group's generation. One that was thrown out forgets the
/// generation at once, and learns of the next only after its partitions were taken back.
pub(crate) fn is_in_group(consumer: *mut sys::rd_kafka_t) -> bool {
    // SAFETY: `consumer` is alive for the whole call (the caller holds it); what is made here is
    // destroyed here, behind the last use of what it owns.
    unsafe {
        let group = sys::rd_kafka_consumer_group_metadata(consumer);
        if group.is_null() {
            return false;
        }
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(group);
        let member = text_of(sys::rd_kafka_consumer_group_metadata_member_id(group));
        sys::rd_kafka_consumer_group_metadata_destroy(group);
        generation >= 0 && !member.is_empty()
    }
}

/// Names brokers to a client, besides those it knows.
pub(crate) fn add_brokers(client: *mut sys::rd_kafka_t, servers: &CStr) {
    // SAFETY: `client` is alive for the whole call (the caller holds it, or is one of its callbacks);
    // librdkafka copies the text.
    unsafe {
        sys::rd_kafka_brokers_add(client, servers.as_ptr());
    }
}

/// # Safety
/// `event` is null or an event that nobody destroys during the call.
unsafe fn read_topic_id(event: *mut sys::rd_kafka_event_t) -> Result<Option<String>, String> {
    use sys::rd_kafka_resp_err_t as E;
    unsafe {
        if event.is_null() {
            return Err("the brokers did not answer in time".to_owned());
        }
        if sys::rd_kafka_event_error(event) != E::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text_of(sys::rd_kafka_event_error_string(event)));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("the brokers sent an answer of another kind".to_owned());
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Ok(None);
        }
        let topic = *topics;
        let error = sys::rd_kafka_TopicDescription_error(topic);
        match sys::rd_kafka_error_code(error) {
            E::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => return Ok(None),
            _ => return Err(text_of(sys::rd_kafka_error_string(error))),
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        Ok(Some(text_of(sys::rd_kafka_Uuid_base64str(id))))
    }
}

/// # Safety
/// `text` is null or a C string that lives through the call.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
