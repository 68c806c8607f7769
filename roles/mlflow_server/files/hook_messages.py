"""Messages from and to JSON with less work; mlflow_server_disabled_hooks switches it off by the name `messages`.

protobuf converts JSON in Python, and looks up what each field is each time; MLflow then has integers of 64 bits looked
for, in three walks through an answer. Here it is looked up once for each type of message, an answer takes one walk, and
protobuf's C code makes the message of a request. What is not the usual case (maps, bytes, numbers that are not finite,
other spellings of fields, wrong types) goes MLflow's own way, which has the errors that its clients know.
"""

import functools
import importlib
import math

import server_hooks as hooks

FUNCTIONS = (
    "parse_dict",
    "_stringify_all_experiment_ids",
    "message_to_json",
    "_mark_int64_fields",
    "_mark_int64_fields_for_proto_maps",
    "_merge_json_dicts",
)
"""Functions of MLflow's module proto_json_utils whose work is done here."""
KNOWN = {
    "075fc259f739b7d34ca795fe8500252361dcd9c4700a2c85874a392578267486",  # 3.10
    "bb45ece270c2a44eb781fef0ab0922c73316e29f19ed79c1f3fd12a59a45c281",  # 3.11 to 3.15
    "0c0c9efef24527dbce7716b6505d1b8133988e2a4f80b900a3bbf19ea17bd38a",  # 3.16, 3.17
}
"""SHA-256 of the source of these in the versions that what this does instead was compared with."""
INTEGERS = tuple(f"{sign}{bits}" for sign in ("INT", "UINT", "SINT", "FIXED", "SFIXED") for bits in (32, 64))


def messages():
    """Replace MLflow's two functions, before its handlers take them, where its own are as they are known."""
    module = importlib.import_module("mlflow.utils.proto_json_utils")
    if not hooks.as_known("messages", "converts messages", [(module, FUNCTIONS)], KNOWN):
        return
    types = Types(importlib.import_module("google.protobuf.descriptor").FieldDescriptor)
    module.parse_dict = parsed(types, module.parse_dict)
    module.message_to_json = written(types, module, module.message_to_json)
    hooks.report(messages="")


class Unusual(Exception):
    """What is left to MLflow's own way."""


class Types:
    """Types of messages by their full names.

    Arguments:
        kinds: protobuf's FieldDescriptor, which has the numbers of kinds.
    """

    def __init__(self, kinds):
        self.kinds = {kinds.TYPE_STRING: {str}, kinds.TYPE_BOOL: {bool}, kinds.TYPE_DOUBLE: {float, int}}
        self.kinds.update((getattr(kinds, f"TYPE_{name}"), {int}) for name in INTEGERS)
        self.message, self.enum, self.double = kinds.TYPE_MESSAGE, kinds.TYPE_ENUM, kinds.TYPE_DOUBLE
        self.known = {}

    def of(self, descriptor):
        """The type of messages with this descriptor.

        Raises:
            Unusual: protobuf writes such messages in another way than others.
        """
        found = self.known.get(descriptor.full_name)
        if found is None:
            if descriptor.is_extendable or descriptor.full_name.startswith("google."):
                raise Unusual
            found = self.known[descriptor.full_name] = Type(self, descriptor)
        return found


class Type:
    """One type of messages.

    Attributes:
        numbers: of each field that is written here, by its number: name, whether it is repeated, and a function that
            makes JSON of its value, or None where the value is JSON.
        names: of each field that is read here, by its name: whether it is repeated, Python's types of its values in
            JSON, and the type of messages that it has, or None.
    """

    def __init__(self, types, descriptor):
        self.types, self.numbers, self.names = types, {}, {}
        for field in descriptor.fields:
            repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
            if field.type == types.message and not field.message_type.GetOptions().map_entry:
                self.add(field, repeated, self.message_written, {dict}, field.message_type)
            elif field.type == types.enum:
                names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
                self.add(field, repeated, names.__getitem__, (), None)
            elif field.type in types.kinds:
                own = finite if field.type == types.double else None
                self.add(field, repeated, own, types.kinds[field.type], None)

    def add(self, field, repeated, convert, kinds, of):
        """Add what is known of a field."""
        self.numbers[field.number] = field.name, repeated, convert
        # MLflow 3.10 makes texts of such numbers in the JSON itself.
        if field.containing_oneof is None and not (int in kinds and field.name.startswith("experiment_id")):
            self.names[field.name] = repeated, kinds, of

    def message_written(self, message):
        """A message in a field of this one."""
        return self.types.of(message.DESCRIPTOR).written(message)

    def written(self, message):
        """A message as MLflow writes it in JSON.

        Raises:
            KeyError, Unusual: something of it is not written here.
        """
        written = {}
        for field, value in message.ListFields():
            name, repeated, convert = self.numbers[field.number]
            if repeated:
                written[name] = list(map(convert, value)) if convert else list(value)
            else:
                written[name] = convert(value) if convert else value
        return written

    def check(self, given):
        """Whether JSON is this message's with the usual spelling and types.

        Raises:
            KeyError, Unusual: it is not.
        """
        for name, value in given.items():
            repeated, kinds, of = self.names[name]
            if repeated and not isinstance(value, list):
                raise Unusual
            for item in value if repeated else (value,):
                if type(item) not in kinds:
                    raise Unusual
                if of:
                    self.types.of(of).check(item)
                elif isinstance(item, float):
                    finite(item)


def finite(value):
    """A number of which there is one spelling in JSON."""
    if math.isfinite(value):
        return value
    raise Unusual


def parsed(types, own):
    """MLflow's parse_dict."""

    @functools.wraps(own)
    def parse_dict(js_dict, message):
        try:
            if message.ListFields():
                raise Unusual
            types.of(message.DESCRIPTOR).check(js_dict)
            made = type(message)(**js_dict)
        except (Unusual, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return own(js_dict, message)
        message.MergeFrom(made)
        return None

    return parse_dict


def written(types, module, own):
    """MLflow's message_to_json."""

    @functools.wraps(own)
    def message_to_json(message, **options):
        if options:
            return own(message, **options)
        try:
            found = types.of(message.DESCRIPTOR).written(message)
        except (Unusual, AttributeError, LookupError):
            return own(message)
        return module.json.dumps(found, indent=2)

    return message_to_json
