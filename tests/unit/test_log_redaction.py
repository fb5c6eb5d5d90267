import json

import pytest
import structlog

from zhcached import log as logfile

SECRETS = [
    "Bearer abcdef0123456789",
    "hf_AbCdEfGhIjKlMn",
    "https://cdn.example/f?X-Amz-Signature=deadbeef&x=1",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_redact_hides_secrets_wherever_they_stand(secret):
    text = json.dumps(logfile.redact({"event": f"x {secret} y", "deep": [{"note": secret}]}))
    assert "abcdef0123456789" not in text
    assert "AbCdEfGh" not in text
    assert "deadbeef" not in text


def test_redact_hides_a_field_by_its_name():
    assert logfile.redact({"Authorization": "x", "my_token": "y", "path": "z"}) == {
        "Authorization": "[redacted]",
        "my_token": "[redacted]",
        "path": "z",
    }


def test_log_file_has_lines_of_one_job_and_passes_over_torn_ones(tmp_path, capsys):
    path = logfile.configure(tmp_path)
    try:
        structlog.get_logger("a").info("one", job="j1", token="hf_SecretSecret")
        structlog.get_logger("a").info("two", job="j2")
        with path.open("a") as stream:
            stream.write('{"event": "torn')
        found = logfile.read(path, job="j1")
    finally:
        structlog.reset_defaults()
    assert [line.event for line in found] == ["one"]
    assert "SecretSecret" not in path.read_text() + capsys.readouterr().err
