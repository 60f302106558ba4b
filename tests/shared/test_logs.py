from __future__ import annotations

import json
import logging

from services.shared.logs import JsonLines, TextLines, request_id


def make_record(**extra: object) -> logging.LogRecord:
    logger = logging.getLogger("services.engine.front.models.manager")
    return logger.makeRecord(
        logger.name, logging.INFO, __file__, 1, "model loaded", (), None, extra=extra
    )


def test_a_json_line_holds_event_and_fields() -> None:
    line = json.loads(JsonLines("engine").format(make_record(model="tiny", seconds=1.5)))

    del line["time"]
    assert line == {
        "level": "INFO",
        "service": "engine",
        "logger": "services.engine.front.models.manager",
        "event": "model loaded",
        "model": "tiny",
        "seconds": 1.5,
    }


def test_a_text_line_ends_with_its_fields() -> None:
    line = TextLines("engine").format(make_record(model="tiny"))

    assert line.endswith("INFO    engine engine.front.models.manager: model loaded model=tiny")


def test_the_request_id_is_added_to_every_line() -> None:
    token = request_id.set("chatcmpl-1")

    line = json.loads(JsonLines("api").format(make_record()))

    request_id.reset(token)
    assert line["request_id"] == "chatcmpl-1"
