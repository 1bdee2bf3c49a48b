"""Train once, from a request to a run folder: a teacher, a student alone, or a distilled student.

`train.train` is the door; `request` says what is asked, `setup` checks it, `folder` is what stays.
"""
