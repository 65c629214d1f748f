//! Every right of every role, as the database has it: docs/security.md shows the same table.

use crate::support::Place;
use crate::support::world::World;

/// What a role may do with each relation: a capital letter for all columns, a small one for some.
/// R read, I insert, U update, D delete, T truncate, M maintain, Q draw from a sequence.
fn rights(world: &World, role: &str) -> Vec<String> {
    let rows: Vec<(String, String)> = world.rows(&format!(
        "SELECT relname::text, letters
           FROM pg_class,
                LATERAL (
                    SELECT coalesce(string_agg(CASE
                               WHEN relkind = 'S' AND letter = 'Q'
                                    THEN CASE WHEN has_sequence_privilege('{role}', oid, 'USAGE') THEN letter END
                               WHEN relkind = 'S' AND letter <> 'R' THEN NULL
                               WHEN letter = 'Q' THEN NULL
                               WHEN has_table_privilege('{role}', oid, name) THEN letter
                               WHEN letter IN ('R', 'I', 'U') AND has_any_column_privilege('{role}', oid, name)
                                    THEN lower(letter)
                           END, '' ORDER BY place), '') AS letters
                      FROM (VALUES (1, 'R', 'SELECT'), (2, 'I', 'INSERT'), (3, 'U', 'UPDATE'),
                                   (4, 'D', 'DELETE'), (5, 'T', 'TRUNCATE'), (6, 'M', 'MAINTAIN'),
                                   (7, 'Q', '')) AS known (place, letter, name)) AS held
          WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
            AND letters <> ''
          ORDER BY relname"
    ));
    rows.into_iter().map(|(relation, letters)| format!("{relation} {letters}")).collect()
}

#[test]
fn each_role_has_the_rights_that_the_documentation_lists_and_no_others() {
    let world = World::of(Place::on(local_stack::shared(), "rights"));
    let document = include_str!("../../../../docs/security.md");
    let (_, table) = document.split_once("<!-- rights: begin -->").unwrap();
    let (table, _) = table.split_once("<!-- rights: end -->").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for (column, role) in ["producer", "consumer", "notifier", "auditor"].into_iter().enumerate() {
        let documented: Vec<String> = rows
            .iter()
            .filter(|row| !row[column + 1].is_empty())
            .map(|row| format!("{} {}", row[0].trim_matches('`'), row[column + 1]))
            .collect();
        assert_eq!(documented, rights(&world, &format!("order_pipeline_{role}")), "{role}");
    }
}
