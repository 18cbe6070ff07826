import pytest

from ranking.tracking.redact import redact, redact_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://user:pass@db/x", "postgresql://***@db/x"),
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("https://token@host", "https://***@host"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("https://h/x?X-Amz-Signature=abc&part=1", "https://h/x?X-Amz-Signature=***&part=1"),
        ("failed: https://a:b@h and s3://c:d@e", "failed: https://***@h and s3://***@e"),
    ],
)
def test_urls_lose_their_credentials(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@pytest.mark.parametrize("name", ["password", "aws_secret_access_key", "API_TOKEN", "sslkey", "credentials"])
def test_what_stands_under_a_secret_name_is_masked_as_a_whole(name: str) -> None:
    assert redact({"outer": [{name: "canary"}, {name: ["canary"]}, {name: {"x": "canary"}}]}) == {
        "outer": [{name: "***"}] * 3
    }


def test_everything_else_is_kept() -> None:
    config = {"learning_rate": 0.1, "tags": ["a", "b"], "token": "", "use_token": True, "n": None}
    assert redact(config) == config
