//! Users of the database that are not its superuser.

use super::poll::wait;
use super::{Place, unique};

impl Place {
    /// The same place as a new user of the database that has this role and nothing else.
    pub(crate) fn as_member_of(&self, role: &str) -> Place {
        let place = self.as_new_user();
        let user = place.user();
        wait(self.sql(&format!("GRANT {role} TO {user}")));
        place
    }

    /// The same place as a new user of the database that has no rights but anybody's.
    pub(crate) fn as_new_user(&self) -> Place {
        let user = unique("user");
        wait(self.sql(&format!("CREATE ROLE {user} LOGIN PASSWORD 'secret'")));
        let (_, address) = self.database_url.split_once('@').unwrap();
        Place { database_url: format!("postgres://{user}:secret@{address}"), ..self.clone() }
    }

    /// Who the place's user of the database is.
    pub(crate) fn user(&self) -> &str {
        let (_, rest) = self.database_url.split_once("://").unwrap();
        rest.split_once(':').unwrap().0
    }

    /// The SQLSTATE with which the database refuses the statement; `None` if it does not.
    pub(crate) fn refusal(&self, statement: &str) -> Option<String> {
        use sqlx::Connection as _;
        wait(async {
            let mut connection = sqlx::PgConnection::connect(&self.database_url).await.unwrap();
            let statement = sqlx::AssertSqlSafe(statement.to_owned());
            let error = sqlx::raw_sql(statement).execute(&mut connection).await.err()?;
            Some(error.as_database_error().unwrap().code().unwrap().into_owned())
        })
    }
}
