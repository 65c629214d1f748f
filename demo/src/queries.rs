//! Three questions that anybody can ask PostgreSQL, and its answers.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use sqlx::{PgPool, Row as _};

struct Question {
    words: &'static str,
    sql: &'static str,
}

const QUESTIONS: [Question; 3] = [
    Question {
        words: "What became of the messages? Each has one row, however often it was delivered.",
        sql: "SELECT outcome, count(*) AS messages, count(DISTINCT message_id) AS different_ids
  FROM processed_messages
 GROUP BY outcome
 ORDER BY outcome",
    },
    Question {
        words: "Do the running totals agree with the orders, to the cent? A doubled order would show.",
        sql: "SELECT (SELECT sum(total_cents) FROM orders WHERE status <> 'cancelled')::bigint AS cents_of_orders,
       (SELECT sum(spent_cents) FROM customer_totals)::bigint AS cents_of_totals,
       (SELECT sum(duplicates) FROM partition_progress)::bigint AS duplicates_dropped",
    },
    Question {
        words: "What was poison, and why?",
        sql: "SELECT error_code, count(*) AS messages, left(min(error_message), 60) AS for_example
  FROM dead_letters
 GROUP BY error_code
 ORDER BY count(*) DESC, error_code",
    },
];

/// Asks, and prints question and answer.
pub(crate) async fn show(pool: &PgPool) -> anyhow::Result<()> {
    for question in &QUESTIONS {
        println!("\n# {}", question.words);
        super::command(&format!("psql -c \"{}\"", question.sql));
        let rows = sqlx::query(question.sql).fetch_all(pool).await?;
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        if let Some(first) = rows.first() {
            table.set_header(first.columns().iter().map(sqlx::Column::name));
        }
        for row in &rows {
            let cells: Vec<String> = (0..row.len())
                .map(|at| {
                    row.try_get::<String, _>(at)
                        .or_else(|_| row.try_get::<i64, _>(at).map(|number| number.to_string()))
                        .unwrap_or_default()
                })
                .collect();
            table.add_row(cells);
        }
        println!("{table}");
    }
    Ok(())
}
