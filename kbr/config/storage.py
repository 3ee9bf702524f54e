"""The section `storage` of the configuration: where backups lie, and how they are kept there. As kbr.config.model's others."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from kbr.config import fields
from kbr.config.fields import Section, choice, key

__all__ = ["S3_KEYS", "StorageConfig"]

Backend = Literal["s3", "ceph", "filesystem"]
ServerSideEncryption = Literal["none", "AES256", "aws:kms"]
LockMode = Literal["governance", "compliance"]
#: Keys that mean something for S3 only.
S3_KEYS = (
    "endpoint",
    "region",
    "access_key",
    "secret_key",
    "secret_key_command",
    "session_token",
    "profile",
    "anonymous",
    "path_style",
    "ca_bundle",
    "sse",
    "sse_kms_key_id",
    "sse_customer_key",
    "sse_customer_key_command",
    "storage_class",
    "tags",
    "object_lock_mode",
    "object_lock_retain_days",
)


class StorageConfig(Section):
    """Where backups lie: `url`, or `backend` with its keys."""

    url: fields.Url = key(
        None,
        "A folder, `file:///folder`, `s3://bucket/prefix`, or a URL of any other filesystem of fsspec whose package is "
        "installed (`gs://`, `abfs://`, `sftp://`, …); instead of `backend`, `bucket`, `prefix` and `path`.",
        kind="URL",
        example="s3://kafka-backups/production",
    )
    backend: Annotated[Backend | None, choice(*get_args(Backend), optional=True)] = key(
        None, "`s3` (any S3 server), `ceph` (Ceph RGW), or `filesystem`.", kind="word", example="s3"
    )
    path: fields.FilePath = key(None, "The folder, for `filesystem`.", kind="path", example="/var/backups/kafka")
    bucket: fields.Bucket = key(None, "The bucket, for `s3` and `ceph`.", kind="text", example="kafka-backups")
    prefix: fields.Prefix = key(
        None, "A folder in the bucket.", kind="text", shown_default="the bucket itself", example="production"
    )
    endpoint: fields.Endpoint = key(
        None,
        "Address of the S3 server.",
        kind="URL",
        shown_default="AWS; required for `ceph`",
        example="https://s3.example.org",
    )
    region: fields.Text = key(
        None, "The bucket's region.", kind="text", shown_default="what boto finds", example="eu-central-1"
    )
    access_key: fields.Secret = key(
        None,
        "Access key id.",
        kind="text",
        secret=True,
        shown_default="boto's chain: environment, profile, instance role",
        example="${S3_ACCESS_KEY}",
    )
    secret_key: fields.Secret = key(
        None,
        "Secret access key.",
        kind="text",
        secret=True,
        shown_default="as `access_key`",
        example="${S3_SECRET_KEY}",
    )
    secret_key_command: fields.Argv = key(
        None,
        "A program and its arguments that prints the secret key; instead of `secret_key`.",
        kind="list of texts",
        example='["pass", "show", "s3/kbr"]',
    )
    session_token: fields.Secret = key(
        None, "Session token of temporary credentials.", kind="text", secret=True, example="${S3_SESSION_TOKEN:-}"
    )
    profile: fields.Text = key(
        None,
        "A profile of AWS's files (`~/.aws/config`, `~/.aws/credentials`), with whatever gives credentials there: keys, "
        "`credential_process`, a role, SSO.",
        kind="text",
        shown_default="`AWS_PROFILE`, or `default`",
        example="backup",
    )
    anonymous: fields.Switch = key(
        False, "Ask without credentials: for buckets that everybody may read.", kind="true or false"
    )
    path_style: fields.OptionalSwitch = key(
        None,
        "Put the bucket into the path of requests and not into the host name.",
        kind="true or false",
        shown_default="true if `endpoint` is given",
        example="true",
    )
    ca_bundle: fields.FilePath = key(
        None,
        "CA certificates (PEM) that the S3 server's certificate is checked with.",
        kind="path",
        shown_default="those that come with botocore",
        example="/etc/kbr/s3-ca.pem",
    )
    sse: Annotated[ServerSideEncryption, choice(*get_args(ServerSideEncryption))] = key(
        "none",
        "Encryption by the S3 server: `AES256` (its own keys), `aws:kms` (a key management service), or `none`: whatever "
        "the bucket does. A server that ignores it ends the run.",
        kind="word",
        example="aws:kms",
    )
    sse_kms_key_id: fields.Text = key(
        None,
        "The key for `aws:kms`: its id or ARN.",
        kind="text",
        shown_default="the bucket's, or AWS's own",
        example="arn:aws:kms:eu-central-1:111122223333:key/kafka-backups",
    )
    sse_customer_key: fields.Secret = key(
        None,
        "SSE-C: 32 bytes in base64, which the S3 server encrypts with and does not keep. Without it nobody can read the "
        "backup again. Goes over https only, or to this machine.",
        kind="text",
        secret=True,
        example="${KBR_SSE_KEY}",
    )
    sse_customer_key_command: fields.Argv = key(
        None,
        "A program and its arguments that prints it; instead of `sse_customer_key`.",
        kind="list of texts",
        example='["pass", "show", "s3/sse-c"]',
    )
    storage_class: fields.StorageClass = key(
        None,
        "Storage class of segments, such as `STANDARD_IA` or `GLACIER_IR`. Everything else is small and is replaced or "
        "read often: the bucket's default class.",
        kind="text",
        shown_default="the bucket's",
        example="STANDARD_IA",
    )
    tags: fields.Tags = key({}, "Tags of every object; at most 10.", kind="mapping of tags", example="{team: data}")
    object_lock_mode: Annotated[LockMode | None, choice(*get_args(LockMode), optional=True)] = key(
        None,
        "Retention of segments and consumer group offsets, in a bucket with object lock: `governance` (who has the right "
        "to bypass it may delete them earlier) or `compliance` (nobody may).",
        kind="word",
        example="governance",
    )
    object_lock_retain_days: fields.OptionalNumber = key(
        None,
        "For how long after it was written, in days; needed with `object_lock_mode`.",
        kind="number",
        unit="days",
        minimum=1,
        maximum=36_500,
        example="30",
    )
    options: fields.FilesystemOptions = key(
        {},
        "For filesystems other than S3 and folders: what the constructor of their fsspec class takes, by its own names. "
        "Names that sound like secrets are never shown, and refused on the command line.",
        kind="mapping of options",
        example="{username: kbr}",
    )
    deadline_ms: fields.Number = key(
        900_000,
        "How long one operation is tried again after temporary errors before kbr gives up with exit code 5.",
        kind="number",
        unit="milliseconds",
        minimum=100,
        maximum=86_400_000,
    )

    @property
    def location(self) -> str:
        """A folder's path, or s3://bucket/prefix: whichever way it was given."""
        if self.url is not None:
            return self.url
        if self.path is not None:
            return self.path
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    @property
    def is_s3(self) -> bool:
        """Whether it is S3."""
        return self.location.startswith("s3://")

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this machine."""
        return "://" not in self.location

    @property
    def uses_path_style(self) -> bool:
        """``path_style``, or what fits the endpoint: servers other than AWS seldom have bucket host names."""
        return self.endpoint is not None if self.path_style is None else self.path_style
