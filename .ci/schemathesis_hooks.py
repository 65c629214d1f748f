"""Each request with an Idempotency-Key of its own: schemathesis takes the same for many, and is then told,
rightly, that it belongs to another request. A key that is wrong on purpose stays as it is."""

import re
import uuid

import schemathesis

NAME = "Idempotency-Key"


@schemathesis.hook
def before_call(context, case, kwargs):
    key = (case.headers or {}).get(NAME)
    pattern = case.operation.schema.raw_schema["components"]["parameters"][NAME]["schema"]["pattern"]
    if key is not None and re.fullmatch(pattern, str(key)):
        case.headers[NAME] = str(uuid.uuid4())
