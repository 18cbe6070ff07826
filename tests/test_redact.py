import pytest

from ranking.redact import redact, redact_text, redact_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://user:pass@db/x", "postgresql://***@db/x"),
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("https://token@host", "https://***@host"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("https://h/x?X-Amz-Signature=abc&part=1", "https://h/x?X-Amz-Signature=***&part=1"),
        ("failed: https://a:b@h and s3://c:d@e", "failed: https://***@h and s3://***@e"),
        ("postgresql+psycopg2://user:pa/ss@db:5432/x", "postgresql+psycopg2://***@db:5432/x"),
        ("postgresql://user:12/ss@db/x", "postgresql://***@db/x"),
        ("s3://AKIA:se/cret/@bucket/x", "s3://***@bucket/x"),
        (
            "https://a.blob.net/c/x.parquet?sv=2024&sig=abc%3D&se=1",
            "https://a.blob.net/c/x.parquet?sv=2024&sig=***&se=1",
        ),
        ("https://h/x?auth=abc&pwd=abc", "https://h/x?auth=***&pwd=***"),
        ("https://h/x#access_token=abc", "https://h/x#access_token=***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Da%3BPWD%3Dabc", "mssql+pyodbc:///?odbc_connect=***"),
        ("AccountName=a;AccountKey=abc;EndpointSuffix=b", "AccountName=a;AccountKey=***"),
        ("Endpoint=b;SharedAccessSignature=sv=1&sig=abc", "Endpoint=b;SharedAccessSignature=***&sig=***"),
    ],
)
def test_urls_lose_their_credentials(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8080/a@b",
        "sqlite:///runs/mlflow.db",
        "postgresql://host:5432/db",
        "models:/ranker@champion",
        "s3://bucket/day=2026-01-01/author=a@b/x.parquet",
        "https://h/x?design=1&author=2&page=3;part=4",
        '<img src="data:image/png;base64,iVBkeyIsig+token/AA==" alt="x">',
        "http://away:5000, which mail to a@b does not mend",
    ],
)
def test_urls_without_secrets_stay_readable(url: str) -> None:
    assert redact_text(url) == url


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-c", "key.yaml", "--date", "2026-01-01"], ["-c", "key.yaml", "--date", "2026-01-01"]),
        (["--tracking.uri=mysql://u:p@h/db"], ["--tracking.uri=mysql://***@h/db"]),
        (["--tracking.uri", "mysql://u:p@h/db"], ["--tracking.uri", "mysql://***@h/db"]),
        (["--data.storage_options.key=abc"], ["--data.storage_options.key=***"]),
        (["--data.storage_options.key", "abc", "--debug"], ["--data.storage_options.key", "***", "--debug"]),
        (['--data.storage_options={"anon": false, "secret": "abc"}'], ["--data.storage_options=***"]),
        (["--data.storage_options", "client_secret=abc,x=y"], ["--data.storage_options", "***"]),
        (['--data.storage_options={"anon": true}'], ['--data.storage_options={"anon": true}']),
        (["--data.train=https://h/x?sig=abc"], ["--data.train=https://h/x?sig=***"]),
        (['--data={"storage_options": {"client_key": "abc"}}'], ["--data=***"]),
        (["--retrain.partition=s3://log/sort_key=1/{date}/"], ["--retrain.partition=s3://log/sort_key=1/{date}/"]),
        (['--data.test=["s3://log/tokenizer=v2/x"]'], ['--data.test=["s3://log/tokenizer=v2/x"]']),
        (['--gate.slices={"new_key": {"unseen": "i"}}'], ['--gate.slices={"new_key": {"unseen": "i"}}']),
    ],
)
def test_a_command_line_is_shown_without_its_secrets(words: list[str], expected: list[str]) -> None:
    assert redact_words(words) == expected


@pytest.mark.parametrize(
    "name",
    [
        "password", "aws_secret_access_key", "API_TOKEN", "sslkey", "credentials", "connection_string",
        "connectionString", "Authorization", "auth", "basic_auth", "pwd", "passphrase", "sas", "Cookie",
    ],
)  # fmt: skip
def test_what_stands_under_a_secret_name_is_masked_as_a_whole(name: str) -> None:
    assert redact({"outer": [{name: "canary"}, {name: ["canary"]}, {name: {"x": "canary"}}]}) == {
        "outer": [{name: "***"}] * 3
    }


def test_everything_else_is_kept() -> None:
    config = {"learning_rate": 0.1, "tags": ["a", "b"], "token": "", "use_token": True, "n": None, "author_id": 7}
    assert redact(config) == config
