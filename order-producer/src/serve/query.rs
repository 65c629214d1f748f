//! The query of a list. Pure.

use order_events::CustomerId;

use super::code::Code;
use super::cursor::Cursor;
use super::problem::Problem;
use super::store::Page;

pub(super) const LIMIT_DEFAULT: i64 = 50;
pub(super) const LIMIT_MAX: i64 = 200;

/// Which page is asked for.
pub(super) fn page(query: &str) -> Result<Page, Problem> {
    let wrong = |detail: String| Problem::new(Code::InvalidQuery, detail);
    let (mut customer_id, mut after, mut limit) = (None, None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let is_repeated = match &*name {
            "customer_id" => {
                let read = CustomerId::new(&value);
                let read = read.map_err(|error| wrong(format!("customer_id {error}")))?;
                customer_id.replace(read).is_some()
            }
            "cursor" => {
                let read = Cursor::from_text(&value);
                let hint = "the cursor is none of ours; take next_cursor of the page before";
                after.replace(read.ok_or_else(|| wrong(hint.to_owned()))?).is_some()
            }
            "limit" => {
                let read = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                let hint = || wrong(format!("limit is a number from 1 to {LIMIT_MAX}"));
                limit.replace(read.ok_or_else(hint)?).is_some()
            }
            _ => {
                let known = "known are customer_id, cursor and limit";
                return Err(wrong(format!("there is a parameter of another name; {known}")));
            }
        };
        if is_repeated {
            return Err(wrong(format!("{name} comes more than once")));
        }
    }
    let customer_id = customer_id.ok_or_else(|| wrong("customer_id is missing".to_owned()))?;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    Ok(Page { customer_id: customer_id.to_string(), after, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_of_one_customer() {
        let page = page("customer_id=c%2F17&limit=2").unwrap();
        assert_eq!((page.customer_id.as_str(), page.limit, page.after), ("c/17", 2, None));
    }

    #[test]
    fn a_query_that_is_not_understood_is_refused() {
        for query in [
            "",
            "customer_id=",
            "customer_id=a+b",
            "customer_id=%ff",
            "customer_id=a&customer_id=b",
            "customer_id=a&limit=0",
            "customer_id=a&limit=201",
            "customer_id=a&limit=x",
            "customer_id=a&cursor=x",
            "customer_id=a&page=2",
            "&&=&",
        ] {
            assert_eq!(page(query).unwrap_err().code(), "invalid_query", "{query}");
        }
    }
}
