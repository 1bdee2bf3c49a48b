"""One training, from a request to a run folder: a teacher, a student alone, or a distilled student.

Call `train.train`; `request` defines the request, `setup` checks the request, `folder` stores the run.
"""
