//! The server's settings: a name and a JSON value each.

use crate::database::Database;
use crate::error::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::types::Json;

impl Database {
    /// The setting, or `None` when it was never set.
    pub async fn setting<T>(&self, name: &str) -> Result<Option<T>>
    where
        T: DeserializeOwned + Send + Unpin + 'static,
    {
        let value: Option<Json<T>> = sqlx::query_scalar("select value from setting where name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        Ok(value.map(|Json(value)| value))
    }

    /// Sets it.
    pub async fn set_setting<T: Serialize + Send + Sync>(&self, name: &str, value: &T) -> Result<()> {
        sqlx::query(
            "insert into setting (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value",
        )
        .bind(name)
        .bind(Json(value))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
