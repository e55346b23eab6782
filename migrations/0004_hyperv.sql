-- How a Hyper-V host is reached; of no meaning for other platforms.

alter table device
    -- 'tls_ntlm', 'tls_basic': TLS, and how the account logs in; 'sealed_http': HTTP with messages sealed by NTLM.
    add column transport text not null default 'tls_ntlm'
        check (transport in ('tls_ntlm', 'tls_basic', 'sealed_http')),
    -- Port of its file shares.
    add column share_port integer not null default 445 check (share_port between 1 and 65535),
    -- Without TLS there is no certificate to pin.
    alter column certificate_sha256 drop not null,
    add constraint device_certificate check (
        certificate_sha256 is not null or (kind = 'hyperv' and transport = 'sealed_http'));

-- What the host kept for a machine before it was asked to keep more: what a job that died meanwhile left is told by it.
alter table host_change add column marks_before jsonb;
