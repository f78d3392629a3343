"""Do FedProx, SCAFFOLD and FedNova beat FedAvg when ten silos hold unlike classes?

Run:    fl-sim sweep experiments/niid_silos.py
        fl-sim sweep experiments/niid_silos_published.py     (the settings of the papers)
Takes:  see niid_silos.expected.json, which also has the numbers to expect
"""
