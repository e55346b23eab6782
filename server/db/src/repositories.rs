//! Repositories and their sealed passphrases.

use crate::column::{MaybeBytes, MaybeTime, Time, size};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::RepositoryId;
use crate::sealed::Place;
use domain::job::JobError;
use jiff::Timestamp;
use secrecy::SecretString;
use sqlx::types::Json;

/// A repository, without its passphrase.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Repository {
    /// The id in its own header.
    pub repository_id: RepositoryId,
    /// The operator's name for it.
    pub name: String,
    /// `folder`, `smb`, `nfs` or `s3`.
    pub kind: String,
    /// Where it is, for people.
    pub path: String,
    /// Where it is, as `repository::Location` reads it; without its secret.
    pub location: serde_json::Value,
    /// When it was added.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// Size of its file system, bytes.
    #[sqlx(try_from = "MaybeBytes")]
    pub capacity_bytes: Option<u64>,
    /// Free there, bytes.
    #[sqlx(try_from = "MaybeBytes")]
    pub free_bytes: Option<u64>,
    /// What the repository takes, bytes.
    #[sqlx(try_from = "MaybeBytes")]
    pub used_bytes: Option<u64>,
    /// When it was looked at last.
    #[sqlx(try_from = "MaybeTime")]
    pub checked_at: Option<Timestamp>,
    /// What was wrong then.
    #[sqlx(json(nullable))]
    pub check_error: Option<JobError>,
    /// When space was last given back.
    #[sqlx(try_from = "MaybeTime")]
    pub collected_at: Option<Timestamp>,
    /// How much then, bytes.
    #[sqlx(try_from = "MaybeBytes")]
    pub collected_bytes: Option<u64>,
    /// Points were removed since.
    pub collect_due: bool,
    /// No rule leaves a machine fewer points; 0 = no floor.
    #[sqlx(try_from = "i32")]
    pub floor_points: u32,
    /// No rule lets a younger point go, days; 0 = no floor.
    #[sqlx(try_from = "i32")]
    pub floor_days: u32,
}

/// A repository to add; what is behind it is made already.
#[derive(Debug)]
pub struct NewRepository {
    /// The id in its own header.
    pub repository_id: RepositoryId,
    /// The operator's name for it.
    pub name: String,
    /// `folder`, `smb`, `nfs` or `s3`.
    pub kind: String,
    /// Where it is, for people.
    pub path: String,
    /// Where it is, without its secret.
    pub location: serde_json::Value,
    /// The location's password or key; sealed before it is written.
    pub secret: Option<SecretString>,
    /// Sealed before it is written.
    pub passphrase: SecretString,
    /// Of a folder of an enrolled worker: its name. It alone sees it.
    pub seen_by: Option<String>,
}

impl NewRepository {
    /// One in a folder of this machine.
    pub fn folder(repository_id: RepositoryId, name: &str, path: &str, passphrase: SecretString) -> Self {
        let location = serde_json::json!({ "kind": "folder", "path": path });
        let (name, kind, path) = (name.to_owned(), "folder".to_owned(), path.to_owned());
        Self { repository_id, name, kind, path, location, secret: None, passphrase, seen_by: None }
    }
}

fn passphrase_place(repository_id: RepositoryId) -> Place {
    Place::new("repository", "passphrase_sealed", repository_id)
}

fn secret_place(repository_id: RepositoryId) -> Place {
    Place::new("repository", "secret_sealed", repository_id)
}

impl Database {
    /// Adds a repository.
    pub async fn insert_repository(&self, new: &NewRepository) -> Result<()> {
        let secret = new.secret.as_ref().map(|secret| self.key.seal(&secret_place(new.repository_id), secret));
        sqlx::query(
            "insert into repository
                 (repository_id, name, kind, path, location, secret_sealed, passphrase_sealed, seen_by)
             values ($1, $2, $3, $4, $5, $6, $7,
                 coalesce((select array[worker_id] from worker where name = $8 and kind = 'worker'), '{}'))",
        )
        .bind(new.repository_id)
        .bind(&new.name)
        .bind(&new.kind)
        .bind(&new.path)
        .bind(&new.location)
        .bind(secret.transpose()?)
        .bind(self.key.seal(&passphrase_place(new.repository_id), &new.passphrase)?)
        .bind(&new.seen_by)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A repository.
    pub async fn repository(&self, repository_id: RepositoryId) -> Result<Repository> {
        sqlx::query_as("select * from repository where repository_id = $1")
            .bind(repository_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("repository", repository_id))
    }

    /// All repositories, by name.
    pub async fn repositories(&self) -> Result<Vec<Repository>> {
        Ok(sqlx::query_as("select * from repository order by lower(name)").fetch_all(&self.pool).await?)
    }

    /// The passphrase, opened. For opening the repository, nothing else.
    pub async fn repository_passphrase(&self, repository_id: RepositoryId) -> Result<SecretString> {
        let sealed: Vec<u8> = sqlx::query_scalar("select passphrase_sealed from repository where repository_id = $1")
            .bind(repository_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("repository", repository_id))?;
        self.key.open(&passphrase_place(repository_id), &sealed)
    }

    /// The location's password or key, opened; `None` for locations without one.
    pub async fn repository_secret(&self, repository_id: RepositoryId) -> Result<Option<SecretString>> {
        let sealed: Option<Vec<u8>> =
            sqlx::query_scalar("select secret_sealed from repository where repository_id = $1")
                .bind(repository_id)
                .fetch_optional(&self.pool)
                .await?
                .ok_or_else(|| Error::not_found("repository", repository_id))?;
        sealed.map(|sealed| self.key.open(&secret_place(repository_id), &sealed)).transpose()
    }

    /// Notes that points were removed: there is space to give back.
    pub async fn mark_collect_due(&self, repository_id: RepositoryId) -> Result<()> {
        sqlx::query("update repository set collect_due = true where repository_id = $1")
            .bind(repository_id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A collection begins: what is removed from now on makes the next one due.
    pub async fn begin_collection(&self, repository_id: RepositoryId) -> Result<()> {
        sqlx::query("update repository set collect_due = false where repository_id = $1")
            .bind(repository_id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Keeps what a collection gave back. `unfinished` makes another one due, because others still hold on to something.
    pub async fn record_collected(&self, repository_id: RepositoryId, bytes: u64, unfinished: bool) -> Result<()> {
        sqlx::query(
            "update repository set collected_at = now(), collected_bytes = $2, collect_due = collect_due or $3
             where repository_id = $1",
        )
        .bind(repository_id)
        .bind(size(bytes))
        .bind(unfinished)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives it another name.
    pub async fn rename_repository(&self, repository_id: RepositoryId, name: &str) -> Result<()> {
        let changed = sqlx::query("update repository set name = $2 where repository_id = $1")
            .bind(repository_id)
            .bind(name)
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("repository", repository_id)) } else { Ok(()) }
    }

    /// Keeps sizes, and that all was well. Capacity and free space are known of file systems only.
    pub async fn record_repository_usage(
        &self,
        repository_id: RepositoryId,
        capacity_bytes: Option<u64>,
        free_bytes: Option<u64>,
        used_bytes: u64,
    ) -> Result<()> {
        sqlx::query(
            "update repository set capacity_bytes = $2, free_bytes = $3, used_bytes = $4, checked_at = now(),
                 check_error = null where repository_id = $1",
        )
        .bind(repository_id)
        .bind(capacity_bytes.map(size))
        .bind(free_bytes.map(size))
        .bind(size(used_bytes))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Keeps what is wrong with it.
    pub async fn record_repository_error(&self, repository_id: RepositoryId, error: &JobError) -> Result<()> {
        sqlx::query("update repository set check_error = $2, checked_at = now() where repository_id = $1")
            .bind(repository_id)
            .bind(Json(error))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Forgets a repository and the rows of its points; the folder is not touched. [`Error::InUse`] names the tasks
    /// and running jobs that stand against it.
    pub async fn remove_repository(&self, repository_id: RepositoryId) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let name: String = sqlx::query_scalar("select name from repository where repository_id = $1 for update")
            .bind(repository_id)
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or_else(|| Error::not_found("repository", repository_id))?;
        let by: Vec<String> = sqlx::query_scalar(
            "select 'task “' || name || '”' from backup_task where repository_id = $1 and deleted_at is null
             union all
             select 'the ' || state || ' ' || kind || ' of “' || title || '”' from job
             where repository_id = $1 and state in ('queued', 'running')",
        )
        .bind(repository_id)
        .fetch_all(&mut *transaction)
        .await?;
        if !by.is_empty() {
            return Err(Error::InUse { what: format!("repository “{name}”"), by });
        }
        sqlx::query("delete from repository where repository_id = $1")
            .bind(repository_id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
