"""Which tests run and compile each device program."""

# In tests/parallel/test_device_programs.py.
RUN_BY = {  # name: the test that runs it on eight devices
    "train.init": "test_a_teacher",
    "train.step": "test_a_teacher",
    "train.strips": "test_a_teacher",
    "train.gather": "test_a_teacher",
    "train.audit": "test_a_student",
    "inference.predict": "test_labels_scores_and_pictures",
    "weights.fill": "test_a_file_that_lacks_tensors",  # for one device of the process
}

# In tests/aot/test_topologies.py.
COMPILED_BY = {  # name: the test that compiles it
    "train.init": "test_training",
    "train.step": "test_training",
    "train.strips": "test_training",
    "train.gather": "test_training",
    "train.audit": "test_training",
    "inference.predict": "test_prediction",
    "weights.fill": "test_a_program_for_one_device",
}
