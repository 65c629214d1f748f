//! Orders of one customer fail for now, as after a statement timeout, and those behind them wait.

use super::Place;

/// Long enough for a test to look at what waits.
pub(crate) const PATIENT: [&str; 4] = ["--retry-backoff", "10m", "--retry-backoff-max", "1h"];

/// The database cancels every statement that touches an order of this customer, or of those that
/// match this pattern of LIKE.
pub(crate) async fn break_customer(place: &Place, customer: &str) {
    place
        .sql(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'too slow' USING ERRCODE = 'query_canceled'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON orders FOR EACH ROW
             WHEN (NEW.customer_id LIKE '{customer}') EXECUTE FUNCTION refuse()"
        ))
        .await;
}

/// Everybody's orders go through again.
pub(crate) async fn mend_customer(place: &Place) {
    place.sql("DROP TRIGGER refuse ON orders").await;
}
